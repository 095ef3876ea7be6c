//! How hsup tells that a dyno is ready, and that it is still well: the values, and how people write them.
//!
//! Nothing here asks a dyno anything; that is the executor's.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::duration::{HumanDuration, InvalidDuration};

/// How long one try may take: a dyno of this host that does not answer within a second is not well.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How many tries in a row have to fail before a dyno counts as unwell: one may be a pause of its garbage collector.
const FAILURES: u32 = 3;

/// How often a dyno is asked whether it is still well.
pub const LIVENESS_PERIOD: Duration = Duration::from_secs(10);

/// What a dyno is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether something listens on its port.
    Port,
    /// Whether a GET of this path on its port is answered with a status from 200 to 399.
    Http(String),
    /// Whether this shell command, run inside the dyno, exits with 0.
    Command(String),
    /// Whether it has printed a line with this text in it.
    Log(String),
    /// Whether it has said so by sd_notify: `READY=1`, and for liveness `WATCHDOG=1` once a period.
    Notify,
}

/// How a dyno is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is asked.
    pub probe: Probe,
    /// How long after its start the first try is made.
    pub initial_delay: Duration,
    /// The time from one try to the next. Without one a dyno that boots is asked often at first and then less and
    /// less, and one that is up every [`LIVENESS_PERIOD`].
    pub period: Option<Duration>,
    /// How long one try may take.
    pub timeout: Duration,
    /// How many tries in a row have to succeed.
    pub success_threshold: u32,
    /// How many tries in a row have to fail.
    pub failure_threshold: u32,
}

impl Check {
    /// This probe, with the usual times and thresholds.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            initial_delay: Duration::ZERO,
            period: None,
            timeout: TIMEOUT,
            success_threshold: 1,
            failure_threshold: FAILURES,
        }
    }
}

/// Why a text is no check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCheck {
    /// It does not say what to ask.
    #[error(
        "it does not say what to ask: add port, http=/PATH, command=..., log=TEXT or notify; none is no check"
    )]
    NoProbe,
    /// It says so twice.
    #[error("it asks for two things: write one of port, http=, command=, log= and notify")]
    TwoProbes,
    /// A part that means nothing.
    #[error(
        "{0:?} is not understood: write port, http=/PATH, command=..., log=TEXT, notify or none, and before it \
             initial-delay=, period=, timeout=, success-threshold= or failure-threshold="
    )]
    Unknown(String),
    /// A path that is none.
    #[error("http={0:?} is no path: write one that begins with /, as http=/health")]
    Path(String),
    /// An empty command or log text.
    #[error("{0}= is empty: say what to look for")]
    Empty(&'static str),
    /// No duration.
    #[error("{name}: {source}")]
    Duration {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        source: InvalidDuration,
    },
    /// A duration of nothing.
    #[error("{0} is 0: give a time such as 1s")]
    Zero(&'static str),
    /// No threshold.
    #[error("{name}={given:?} is not a number from 1 to 100")]
    Threshold {
        /// Which one.
        name: &'static str,
        /// What was written.
        given: String,
    },
    /// A line of the log tells that a dyno has become ready, and nothing later.
    #[error(
        "a log line tells when a dyno is ready, not that it still is: use port, http=, command= or notify"
    )]
    LogLiveness,
    /// It would begin when the time for getting ready is over.
    #[error(
        "initial-delay={} is not shorter than the boot timeout of {}: lower it, or raise --boot-timeout",
        HumanDuration(*delay), HumanDuration(*boot_timeout)
    )]
    TooLate {
        /// When the first try would be made.
        delay: Duration,
        /// When it would be too late.
        boot_timeout: Duration,
    },
}

/// A check as it is written: `none`, or settings and what to ask, as in `period=5s,http=/health`. What follows
/// `command=` or `log=` belongs to it to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckText(pub Option<Check>);

impl FromStr for CheckText {
    type Err = InvalidCheck;

    fn from_str(given: &str) -> Result<Self, InvalidCheck> {
        if given.trim() == "none" {
            return Ok(Self(None));
        }
        let mut check = Check::new(Probe::Port);
        let mut probe = None;
        let mut rest = given.trim();
        while !rest.is_empty() {
            let to_the_end = rest.starts_with("command=") || rest.starts_with("log=");
            let (part, after) =
                if to_the_end { (rest, "") } else { rest.split_once(',').unwrap_or((rest, "")) };
            match read_probe(part)? {
                Some(_) if probe.is_some() => return Err(InvalidCheck::TwoProbes),
                Some(read) => probe = Some(read),
                None => check.set(part)?,
            }
            rest = after;
        }
        check.probe = probe.ok_or(InvalidCheck::NoProbe)?;
        Ok(Self(Some(check)))
    }
}

fn read_probe(part: &str) -> Result<Option<Probe>, InvalidCheck> {
    let unless_empty = |name, text: &str| {
        if text.trim().is_empty() { Err(InvalidCheck::Empty(name)) } else { Ok(text.to_owned()) }
    };
    Ok(Some(match part.split_once('=').unwrap_or((part, "")) {
        ("port", "") => Probe::Port,
        ("notify", "") => Probe::Notify,
        ("http", path) if path.starts_with('/') && !path.contains(char::is_whitespace) => {
            Probe::Http(path.to_owned())
        }
        ("http", path) => return Err(InvalidCheck::Path(path.to_owned())),
        ("command", command) => Probe::Command(unless_empty("command", command)?),
        ("log", text) => Probe::Log(unless_empty("log", text)?),
        _ => return Ok(None),
    }))
}

impl Check {
    fn set(&mut self, part: &str) -> Result<(), InvalidCheck> {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name {
            "initial-delay" => self.initial_delay = duration("initial-delay", value)?,
            "period" => self.period = Some(above_zero("period", value)?),
            "timeout" => self.timeout = above_zero("timeout", value)?,
            "success-threshold" => self.success_threshold = threshold("success-threshold", value)?,
            "failure-threshold" => self.failure_threshold = threshold("failure-threshold", value)?,
            _ => return Err(InvalidCheck::Unknown(part.to_owned())),
        }
        Ok(())
    }
}

fn duration(name: &'static str, given: &str) -> Result<Duration, InvalidCheck> {
    let HumanDuration(duration) = given.parse().map_err(|source| InvalidCheck::Duration { name, source })?;
    Ok(duration)
}

fn above_zero(name: &'static str, given: &str) -> Result<Duration, InvalidCheck> {
    let duration = duration(name, given)?;
    if duration.is_zero() { Err(InvalidCheck::Zero(name)) } else { Ok(duration) }
}

fn threshold(name: &'static str, given: &str) -> Result<u32, InvalidCheck> {
    let number = given.parse().ok().filter(|number| (1..=100).contains(number));
    number.ok_or_else(|| InvalidCheck::Threshold { name, given: given.to_owned() })
}

impl std::fmt::Display for CheckText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(check) = &self.0 else { return f.write_str("none") };
        let usual = Check::new(Probe::Port);
        if check.initial_delay != usual.initial_delay {
            write!(f, "initial-delay={},", HumanDuration(check.initial_delay))?;
        }
        if let Some(period) = check.period {
            write!(f, "period={},", HumanDuration(period))?;
        }
        if check.timeout != usual.timeout {
            write!(f, "timeout={},", HumanDuration(check.timeout))?;
        }
        if check.success_threshold != usual.success_threshold {
            write!(f, "success-threshold={},", check.success_threshold)?;
        }
        if check.failure_threshold != usual.failure_threshold {
            write!(f, "failure-threshold={},", check.failure_threshold)?;
        }
        match &check.probe {
            Probe::Port => f.write_str("port"),
            Probe::Http(path) => write!(f, "http={path}"),
            Probe::Command(command) => write!(f, "command={command}"),
            Probe::Log(text) => write!(f, "log={text}"),
            Probe::Notify => f.write_str("notify"),
        }
    }
}

impl Serialize for CheckText {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CheckText {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(de::Error::custom)
    }
}

/// The checks of a process type: what a release or an operator says of them. `None` is nothing said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Whether a dyno that boots is ready.
    pub readiness: Option<CheckText>,
    /// Whether a dyno that is up is still well.
    pub liveness: Option<CheckText>,
}

impl Checks {
    /// These, and where they say nothing the others.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self { readiness: self.readiness.or(others.readiness), liveness: self.liveness.or(others.liveness) }
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.readiness.is_none() && self.liveness.is_none()
    }
}

/// A check that cannot serve for liveness is refused where it is written.
///
/// # Errors
/// If it is one.
pub fn for_liveness(text: CheckText) -> Result<CheckText, InvalidCheck> {
    match &text.0 {
        Some(Check { probe: Probe::Log(_), .. }) => Err(InvalidCheck::LogLiveness),
        Some(_) | None => Ok(text),
    }
}

/// A check of readiness that would begin when there is no time left for it is refused.
///
/// # Errors
/// If it is one.
pub fn for_readiness(text: CheckText, boot_timeout: Duration) -> Result<CheckText, InvalidCheck> {
    match &text.0 {
        Some(check) if check.initial_delay >= boot_timeout => {
            Err(InvalidCheck::TooLate { delay: check.initial_delay, boot_timeout })
        }
        Some(_) | None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Check, String> {
        let CheckText(check) = text.parse().map_err(|error: InvalidCheck| error.to_string())?;
        check.ok_or_else(|| "none".to_owned())
    }

    #[test]
    fn a_check_is_settings_and_one_thing_to_ask() {
        assert_eq!(read("port"), Ok(Check::new(Probe::Port)));
        let http = read("period=5s,timeout=500ms,failure-threshold=2,http=/up?x=1").unwrap();
        assert_eq!(http.probe, Probe::Http("/up?x=1".to_owned()));
        assert_eq!(
            (http.period, http.timeout.as_millis(), http.failure_threshold),
            (Some(Duration::from_secs(5)), 500, 2)
        );
        assert_eq!(read("http=/up,period=5s").unwrap().period, Some(Duration::from_secs(5)));
        assert_eq!(read("log=a, b: c=d").unwrap().probe, Probe::Log("a, b: c=d".to_owned()));
        assert_eq!(
            read("initial-delay=2s,command=test -e a,b").unwrap().probe,
            Probe::Command("test -e a,b".to_owned())
        );
        assert_eq!(read("none"), Err("none".to_owned()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "none",
            "port",
            "notify",
            "initial-delay=2s,period=5s,timeout=2s,success-threshold=2,failure-threshold=5,http=/x",
            "log=up, at last",
        ] {
            let read: CheckText = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "",
            "period=5s",
            "port,notify",
            "http=health",
            "http=",
            "command=",
            "log= ",
            "period=5,port",
            "period=0s,port",
            "timeout=x,port",
            "success-threshold=0,port",
            "failure-threshold=1000,port",
            "speed=9,port",
            "port=80",
        ] {
            assert!(bad.parse::<CheckText>().is_err(), "{bad}");
        }
        assert_eq!(for_liveness("log=x".parse().unwrap()), Err(InvalidCheck::LogLiveness));
    }
}
