//! `hsup events`: shows what has happened lately in a running hsup, and what happens from now on.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process;

use super::clients::{talk_to, warn_of_unknown};
use super::settings::Reader;
use super::{Config, ExitCode, output};
use crate::control::EventsQuery;
use crate::control::wire::EventHead;

/// How many events are shown where nothing says how many.
const DEFAULT_EVENTS: usize = 100;

/// The longest type of events, `release.rolled-back`, for the messages to stand below each other.
const TYPE_WIDTH: usize = 19;

/// The arguments of `hsup events`, as raw text.
#[derive(clap::Args)]
pub(super) struct EventsFlags {
    /// Go on with what happens from now on, until hsup ends
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest events to show [default: 100]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    num: Option<String>,
    /// Show events of this type only (dyno.exit), or of all that begin so (dyno, release, source); may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Show events of this dyno (web.1) or process type (web) only; may be repeated
    #[arg(long, value_name = "DYNO|TYPE")]
    dyno: Vec<String>,
    /// Write a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Reads which events are to be shown, and whether as JSON.
pub(super) fn read_events(reader: &mut Reader<'_>, flags: &EventsFlags) -> Option<(EventsQuery, bool)> {
    let types: Vec<_> = flags.types.iter().map(|given| reader.keep("--type", given.parse())).collect();
    let targets: Vec<_> = flags.dyno.iter().map(|given| reader.keep("--dyno", given.parse())).collect();
    let newest = match &flags.num {
        Some(given) => reader.keep("--num", read_number(given)),
        None => Some(DEFAULT_EVENTS),
    };
    let types = types.into_iter().collect::<Option<_>>()?;
    let targets = targets.into_iter().collect::<Option<_>>()?;
    Some((EventsQuery { follow: flags.follow, newest: Some(newest?), types, targets }, flags.json))
}

fn read_number(given: &str) -> Result<usize, String> {
    given
        .parse()
        .map_err(|_| format!("{given:?} is not a number of events: write a whole number such as 100"))
}

/// `hsup events`.
pub fn events(config: &Config, query: &EventsQuery, json: bool) -> process::ExitCode {
    talk_to(config, async |client| {
        warn_of_unknown(&client, &query.targets).await?;
        let mut screen = Screen { out: io::stdout(), json, partial: Vec::new() };
        let shown = client.stream(&query.resource(), |bytes| screen.show(bytes)).await?;
        output::finish(shown.break_value().map_or(Ok(()), Err))?;
        Ok(ExitCode::Ok.into())
    })
}

/// Where events are shown.
struct Screen<W> {
    out: W,
    json: bool,
    /// The beginning of an event whose end has not come yet.
    partial: Vec<u8>,
}

impl<W: Write> Screen<W> {
    /// Shows what has come; gives why that is not possible any more.
    fn show(&mut self, bytes: &[u8]) -> ControlFlow<io::Error> {
        self.partial.extend_from_slice(bytes);
        let whole = memchr::memmem::rfind(&self.partial, b"\n\n").map_or(0, |end| end + 2);
        let rest = self.partial.split_off(whole);
        let blocks = std::mem::replace(&mut self.partial, rest);
        let mut text = Vec::new();
        for line in blocks.split(|byte| *byte == b'\n') {
            if let Some(data) = line.strip_prefix(b"data: ") {
                self.append(&mut text, data);
            }
        }
        match self.out.write_all(&text).and_then(|()| self.out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    /// Appends an event as a line. What is no event for this version is shown as it is.
    fn append(&self, text: &mut Vec<u8>, data: &[u8]) {
        match serde_json::from_slice::<EventHead>(data) {
            Ok(EventHead { time, r#type, message }) if !self.json => {
                let line = format!("{time} {type:TYPE_WIDTH$} {}\n", one_line(&message));
                text.extend_from_slice(line.as_bytes());
            }
            Ok(_) | Err(_) => {
                text.extend_from_slice(data);
                text.push(b'\n');
            }
        }
    }
}

/// A message on one line, whatever a release or a dyno has put into it.
fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_however_they_come() {
        let sent = b"id: 7\nevent: release.bad\ndata: {\"Id\":7,\"Time\":\"2026-11-21T10:00:00.000Z\",\"Type\":\"release.bad\",\
            \"Message\":\"release v3 is bad:\\nweb.1\",\"Why\":\"x\"}\n\n: keep-alive\n\nevent: new\ndata: {\"odd\":1}\n\ndata: {\"cut";
        let shown = |step: usize, json: bool| {
            let mut screen = Screen { out: Vec::new(), json, partial: Vec::new() };
            sent.chunks(step).for_each(|bytes| assert!(screen.show(bytes).is_continue()));
            String::from_utf8(screen.out).unwrap()
        };
        let text = "2026-11-21T10:00:00.000Z release.bad         release v3 is bad: web.1\n{\"odd\":1}\n";
        assert_eq!((shown(1, false).as_str(), shown(1000, false).as_str()), (text, text));
        let json: Vec<serde_json::Value> =
            shown(3, true).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((json.len(), &json[0]["Why"]), (2, &"x".into()));
    }
}
