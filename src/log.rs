//! hsup's own log: through `tracing` to stderr, as text or JSON, and into the diagnostic ring. Dynos' log
//! lines do not come by here.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal as _};
use std::str::FromStr;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::diagnostics::{Ring, RingLayer};
use crate::stderr::Stderr;
use crate::systemd;

/// What the targets of hsup's own records start with; the ring keeps no others.
const OWN_TARGETS: &str = "hsup";

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line a record: time, level, message, fields. In the journal, which has the first two of each line by itself,
    /// only the others.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Why a text is not a log format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log format: write text or json")]
pub struct InvalidLogFormat(String);

impl FromStr for LogFormat {
    type Err = InvalidLogFormat;

    fn from_str(given: &str) -> Result<Self, InvalidLogFormat> {
        match given {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(InvalidLogFormat(other.to_owned())),
        }
    }
}

/// What is logged: levels, or targets with levels, in the syntax of [`Targets`].
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter(Targets);

impl Default for LogFilter {
    /// `info`: what an operator needs to know and no more.
    fn default() -> Self {
        Self(Targets::new().with_default(Level::INFO))
    }
}

impl LogFilter {
    /// `warn`: for one-off dynos, whose own output is what their user has come for.
    pub fn warnings() -> Self {
        Self(Targets::new().with_default(Level::WARN))
    }
}

/// Why a text is not a log filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a log filter: write a level (off, error, warn, info, debug or trace), or TARGET=LEVEL \
     separated by commas, for instance info,hsup=debug"
)]
pub struct InvalidLogFilter(String);

impl FromStr for LogFilter {
    type Err = InvalidLogFilter;

    /// A word alone must be a level: `Targets` would take `verbose` for a target and log nothing else.
    fn from_str(given: &str) -> Result<Self, InvalidLogFilter> {
        let invalid = || InvalidLogFilter(given.to_owned());
        let level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
        let directive = |text: &str| match text.split_once('=') {
            Some((target, text)) => !target.is_empty() && level(text),
            None => level(text),
        };
        if !given.split(',').map(str::trim).all(directive) {
            return Err(invalid());
        }
        given.parse().map(Self).map_err(|_| invalid())
    }
}

/// How hsup logs.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// How it is written.
    pub format: LogFormat,
    /// What is written.
    pub filter: LogFilter,
    /// Whether a terminal may be given colours (`NO_COLOR` is unset).
    pub colour: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: LogFilter::default(), colour: true }
    }
}

/// Sets the log up for the whole process, to be written to `out`, and gives the ring of the most recent records. It
/// is called once.
pub fn init(config: &LogConfig, out: Stderr) -> Arc<Ring> {
    let ring = Arc::new(Ring::default());
    let look = if systemd::is_journal(io::stderr()) {
        Look::Journal
    } else if config.colour && io::stderr().is_terminal() {
        Look::Colour
    } else {
        Look::Plain
    };
    let subscriber = subscriber(config, look, move || out.clone(), ring.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the log is set up once");
    ring
}

/// How lines of text look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Plain,
    Colour,
    Journal,
}

fn subscriber<W>(config: &LogConfig, look: Look, out: W, ring: Arc<Ring>) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = config.filter.0.clone();
    // Where stderr is gone there is nobody to tell: tracing would tell it with eprintln!, which panics then.
    let layer = tracing_subscriber::fmt::layer().with_writer(out).log_internal_errors(false);
    let printed = match config.format {
        LogFormat::Text => {
            layer.with_ansi(look == Look::Colour).fmt_fields(TextFields).event_format(TextLine(look)).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let kept = Targets::new().with_target(OWN_TARGETS, Level::DEBUG);
    tracing_subscriber::registry()
        .with(RingLayer::new(ring).with_filter(kept))
        .with(printed.with_filter(filter))
}

/// Writes the time as the log has it: RFC 3339 in UTC, to the microsecond.
pub(crate) fn write_time(mut out: &mut dyn Write) -> fmt::Result {
    SystemTime.format_time(&mut Writer::new(&mut out))
}

/// Writes the message and the fields of a record on one line: control characters are escaped, whatever they
/// came from.
pub(crate) fn write_fields(out: &mut dyn Write, fields: impl RecordFields) -> fmt::Result {
    let mut visitor = Fields { out: Escaped(out), first: true, result: Ok(()) };
    fields.record(&mut visitor);
    visitor.result
}

/// The fields of spans, written as those of records are.
struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'w>, fields: R) -> fmt::Result {
        write_fields(&mut out, fields)
    }
}

/// A record as a line of text: `2026-01-02T03:04:05.678901Z  INFO message key=value`, and in the journal
/// `<6>message key=value`.
struct TextLine(Look);

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.0 == Look::Journal {
            out.write_str(systemd::priority(level))?;
        } else {
            write_time(&mut out)?;
        }
        match self.0 {
            Look::Plain => write!(out, " {level:>5} ")?,
            Look::Colour => write!(out, " \x1b[{}m{level:>5}\x1b[0m ", colour(level))?,
            Look::Journal => {}
        }
        write_fields(&mut out, event)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(out, " {}", fields.fields)?;
            }
        }
        writeln!(out)
    }
}

/// The number of a level's colour on terminals.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// Writes fields one after the other, the message without its name.
struct Fields<'a> {
    out: Escaped<'a>,
    first: bool,
    result: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() {
            return;
        }
        let blank = if std::mem::take(&mut self.first) { "" } else { " " };
        self.result = match field.name() {
            "message" => write!(self.out, "{blank}{value}"),
            name => write!(self.out, "{blank}{name}={value}"),
        };
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let bare = field.name() == "message"
            || !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
        if bare {
            self.write(field, format_args!("{value}"));
        } else {
            self.write(field, format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, mut value: &(dyn std::error::Error + 'static)) {
        self.write(field, format_args!("{value}"));
        while let Some(source) = value.source() {
            if self.result.is_ok() {
                self.result = write!(self.out, ": {source}");
            }
            value = source;
        }
    }
}

/// Writes control characters as escapes, so that one record stays one line and cannot steer a terminal.
struct Escaped<'a>(&'a mut dyn Write);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(char::is_control) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = from.chars();
            for control in chars.by_ref().take(1) {
                write!(self.0, "{}", control.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What is printed by `log`, and what the ring holds then.
    fn logged(config: &LogConfig, look: Look, log: impl FnOnce()) -> (String, String) {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (buffer, ring) = (Buffer::default(), Arc::new(Ring::default()));
        let out = buffer.clone();
        let subscriber = subscriber(config, look, move || out.clone(), ring.clone());
        tracing::subscriber::with_default(subscriber, log);
        let mut kept = Vec::new();
        ring.dump(&mut kept).unwrap();
        let printed = buffer.0.lock().unwrap().clone();
        (String::from_utf8(printed).unwrap(), String::from_utf8(kept).unwrap())
    }

    #[test]
    fn text_is_a_line_with_time_level_message_and_fields() {
        let (printed, _) = logged(&LogConfig::default(), Look::Plain, || {
            let span = tracing::info_span!("start", app = "myapp");
            let _entered = span.enter();
            tracing::warn!(dyno = %"web.1", empty = "", code = 7, "it\nended\x1b[31m");
        });
        let (time, rest) = printed.split_once(' ').unwrap();
        assert!(time.len() == "2026-01-02T03:04:05.678901Z".len() && time.ends_with('Z'), "{time}");
        assert_eq!(rest, " WARN it\\nended\\u{1b}[31m dyno=web.1 empty=\"\" code=7 app=myapp\n");
    }

    #[test]
    fn errors_are_written_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to open x")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("no"));
        let (printed, _) = logged(&LogConfig::default(), Look::Plain, || {
            tracing::error!(error = &error as &(dyn std::error::Error + 'static), "bad release");
        });
        assert!(printed.ends_with("ERROR bad release error=failed to open x: no\n"), "{printed}");
    }

    #[test]
    fn json_is_an_object_a_line() {
        let config = LogConfig { format: LogFormat::Json, ..LogConfig::default() };
        let (printed, _) = logged(&config, Look::Colour, || tracing::info!(dyno = "web.1", "up\nnow"));
        assert_eq!(printed.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(
            (&value["level"], &value["message"], &value["dyno"]),
            (&"INFO".into(), &"up\nnow".into(), &"web.1".into())
        );
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn colours_are_for_terminals() {
        let log = || tracing::info!("up");
        assert!(logged(&LogConfig::default(), Look::Colour, log).0.contains("\x1b[32m INFO\x1b[0m up"));
        assert!(!logged(&LogConfig::default(), Look::Plain, log).0.contains('\x1b'));
    }

    #[test]
    fn the_journal_gets_priorities_and_has_the_time_by_itself() {
        let (printed, kept) = logged(&LogConfig::default(), Look::Journal, || {
            tracing::error!("bad");
            tracing::warn!(dyno = "web.1", "slow");
            tracing::info!("it\n<0>ended");
        });
        assert_eq!(printed, "<3>bad\n<4>slow dyno=web.1\n<6>it\\n<0>ended\n");
        assert!(kept.starts_with("20"), "{kept}");
    }

    #[test]
    fn the_ring_keeps_what_is_not_printed_down_to_debug_and_only_hsups_own() {
        let config = LogConfig { filter: "off".parse().unwrap(), ..LogConfig::default() };
        let (printed, kept) = logged(&config, Look::Plain, || {
            tracing::debug!("one");
            tracing::trace!("two");
            tracing::debug!(target: "hsup_drivers::native", "three");
            tracing::error!(target: "hyper", "four");
        });
        assert_eq!(printed, "");
        let messages: Vec<_> = kept.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(messages, ["one", "three"]);
    }

    #[test]
    fn filters_are_levels_or_targets_with_levels() {
        for good in ["info", "OFF", "warn,hsup=debug", "hsup::dyno=trace", "3"] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
        for bad in ["", " ", "verbose", "info,chatty", "hsup=verbose", "hsup=", "="] {
            let error = bad.parse::<LogFilter>();
            assert!(error.is_err(), "{bad}");
        }
    }

    #[test]
    fn formats_are_text_or_json() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        let error = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert_eq!(error, "\"xml\" is not a log format: write text or json");
    }
}
