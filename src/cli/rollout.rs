//! The settings of health checks and rollouts.

use std::time::Duration;

use super::DriverKind;
use super::parse::read_duration;
use super::settings::{Problem, Reader, Setting};
use crate::listen::Listen;
use crate::model::{
    ByType, CheckText, InvalidCheck, InvalidOfType, OfType, Rollout, RolloutSettings, for_liveness,
    for_readiness,
};

const LISTEN: Setting = Setting { flag: "--listen", variable: "HSUP_LISTEN" };
const READINESS: Setting = Setting { flag: "--readiness", variable: "HSUP_READINESS" };
const LIVENESS: Setting = Setting { flag: "--liveness", variable: "HSUP_LIVENESS" };
const ROLLOUT: Setting = Setting { flag: "--rollout", variable: "HSUP_ROLLOUT" };
const BOOT_TIMEOUT: Setting = Setting { flag: "--boot-timeout", variable: "HSUP_BOOT_TIMEOUT" };
const MIN_HEALTHY_TIME: Setting = Setting { flag: "--min-healthy-time", variable: "HSUP_MIN_HEALTHY_TIME" };

/// What boots for longer than an hour is a mistake in the unit.
const BOOT_TIMEOUTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3600)];
/// So is what has to be healthy for longer.
const MIN_HEALTHY_TIMES: [Duration; 2] = [Duration::ZERO, Duration::from_secs(3600)];

// The flags, as they were given.
#[derive(clap::Args, Default)]
pub(super) struct RolloutFlags {
    /// How dynos of a type, or of all, show that they are ready: port, http=/PATH, command=CMD, log=TEXT, notify or
    /// none, after settings such as period=5s,timeout=1s; may be repeated [env: HSUP_READINESS, one a line]
    /// [default: port for web, none for others]
    #[arg(long, value_name = "[TYPE:]CHECK")]
    pub readiness: Vec<String>,
    /// How dynos that are up show that they are still well; those that do not are restarted [env: HSUP_LIVENESS, one
    /// a line] [default: none]
    #[arg(long, value_name = "[TYPE:]CHECK")]
    pub liveness: Vec<String>,
    /// How the dynos of a new release take the place of the old ones: replace, rolling or overlap; may be repeated
    /// [env: HSUP_ROLLOUT, separated by blanks] [default: replace]
    #[arg(long, value_name = "[TYPE:]ROLLOUT")]
    pub rollout: Vec<String>,
    /// How long dynos have for getting ready [env: HSUP_BOOT_TIMEOUT] [default: 60s]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub boot_timeout: Option<String>,
    /// How long a new dyno has to be up before it counts as good [env: HSUP_MIN_HEALTHY_TIME] [default: 5s]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub min_healthy_time: Option<String>,
}

impl RolloutFlags {
    /// These flags, and for those that are missing the others; repeatable ones add up, the others' first.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            readiness: others.readiness.into_iter().chain(self.readiness).collect(),
            liveness: others.liveness.into_iter().chain(self.liveness).collect(),
            rollout: others.rollout.into_iter().chain(self.rollout).collect(),
            boot_timeout: self.boot_timeout.or(others.boot_timeout),
            min_healthy_time: self.min_healthy_time.or(others.min_healthy_time),
        }
    }
}

/// Reads the sockets that hsup is to hold. Dynos with a network of their own could not use them.
pub(super) fn read_listens(
    reader: &mut Reader<'_>,
    flags: Vec<String>,
    driver: Option<DriverKind>,
) -> Vec<Listen> {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(LISTEN.variable).unwrap_or_default();
        (variable.split_ascii_whitespace().map(str::to_owned).collect(), LISTEN.variable)
    } else {
        (flags, LISTEN.flag)
    };
    let read: Vec<_> = given.iter().map(|text| reader.keep(name, text.parse::<Listen>())).collect();
    if !given.is_empty() && driver.is_some_and(DriverKind::is_isolated) {
        let what =
            "docker and native dynos have networks of their own: let them overlap with --rollout overlap";
        reader.problems.push(Problem::usage(name, what));
    }
    let read: Vec<Listen> = read.into_iter().flatten().collect();
    let twice = |(index, place): &(usize, &Listen)| {
        read[..*index].iter().any(|p| p.process_type == place.process_type)
    };
    if let Some((_, place)) = read.iter().enumerate().find(twice) {
        let what = format!("{} is there twice: its dynos get one socket, so keep one", place.process_type);
        reader.problems.push(Problem::usage(name, what));
    }
    read
}

/// Reads the settings.
pub(super) fn read(reader: &mut Reader<'_>, flags: RolloutFlags) -> RolloutSettings {
    let default = RolloutSettings::default();
    let boot = |text: &str| read_duration(text, BOOT_TIMEOUTS);
    let boot_timeout = reader.parsed(BOOT_TIMEOUT, flags.boot_timeout, boot).unwrap_or(default.boot_timeout);
    let readiness = |text: &str| -> Result<_, InvalidOfType<InvalidCheck>> {
        let OfType { process_type, value } = text.parse::<OfType<CheckText>>()?;
        let value = for_readiness(value, boot_timeout).map_err(InvalidOfType::Value)?;
        Ok(OfType { process_type, value })
    };
    let liveness = |text: &str| -> Result<_, InvalidOfType<InvalidCheck>> {
        let OfType { process_type, value } = text.parse::<OfType<CheckText>>()?;
        Ok(OfType { process_type, value: for_liveness(value).map_err(InvalidOfType::Value)? })
    };
    let healthy = |text: &str| read_duration(text, MIN_HEALTHY_TIMES);
    RolloutSettings {
        readiness: by_type(reader, READINESS, flags.readiness, '\n', readiness),
        liveness: by_type(reader, LIVENESS, flags.liveness, '\n', liveness),
        rollout: by_type(reader, ROLLOUT, flags.rollout, ' ', |text| text.parse::<OfType<Rollout>>()),
        boot_timeout,
        min_healthy: reader
            .parsed(MIN_HEALTHY_TIME, flags.min_healthy_time, healthy)
            .unwrap_or(default.min_healthy),
    }
}

/// The settings of the flags, else those of the variable.
fn by_type<T, E: std::fmt::Display>(
    reader: &mut Reader<'_>,
    setting: Setting,
    flags: Vec<String>,
    separator: char,
    read: impl Fn(&str) -> Result<OfType<T>, E>,
) -> ByType<T> {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(setting.variable).unwrap_or_default();
        let parts = variable.split(separator).map(str::trim).filter(|part| !part.is_empty());
        (parts.map(str::to_owned).collect(), setting.variable)
    } else {
        (flags, setting.flag)
    };
    let settings: Vec<_> = given.iter().map(|text| reader.keep(name, read(text))).collect();
    settings.into_iter().flatten().collect()
}
