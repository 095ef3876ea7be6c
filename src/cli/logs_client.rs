//! `hsup logs`: shows the newest log lines of a running hsup, and what comes after them.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process;

use super::clients::{talk_to, warn_of_unknown};
use super::{Config, ExitCode, output};
use crate::control::LogsQuery;
use crate::logs::{COLOURS, may_be_coloured};

/// `hsup logs`.
pub fn logs(config: &Config, query: &LogsQuery) -> process::ExitCode {
    let colour = !query.json && may_be_coloured(&io::stdout());
    talk_to(config, async |client| {
        warn_of_unknown(&client, &query.targets).await?;
        let mut screen = Screen { out: io::stdout(), colour, partial: Vec::new() };
        let shown = client.stream(&query.resource(), |bytes| screen.show(bytes)).await?;
        output::finish(shown.break_value().map_or(Ok(()), Err))?;
        Ok(ExitCode::Ok.into())
    })
}

/// Where lines are shown.
struct Screen<W> {
    out: W,
    colour: bool,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl<W: Write> Screen<W> {
    /// Shows lines; gives why that is not possible any more.
    fn show(&mut self, bytes: &[u8]) -> ControlFlow<io::Error> {
        let shown = match self.colour {
            false => self.out.write_all(bytes),
            true => self.show_coloured(bytes),
        };
        match shown.and_then(|()| self.out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn show_coloured(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.partial.extend_from_slice(bytes);
        let whole = memchr::memrchr(b'\n', &self.partial).map_or(0, |end| end + 1);
        let rest = self.partial.split_off(whole);
        let lines = std::mem::replace(&mut self.partial, rest);
        let mut text = Vec::with_capacity(lines.len() * 2);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            append_coloured(&mut text, line);
        }
        self.out.write_all(&text)
    }
}

/// Appends `TIME SOURCE[DYNO]: MESSAGE` with its head in the colour of the dyno.
fn append_coloured(text: &mut Vec<u8>, line: &[u8]) {
    let head = memchr::memmem::find(line, b"]: ").map(|end| end + 2);
    let Some((head, message)) = head.and_then(|end| line.split_at_checked(end)) else {
        return text.extend_from_slice(line);
    };
    let dyno = head.split(|byte| *byte == b'[').next_back().unwrap_or_default();
    let sum = dyno.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let colour = COLOURS.get(sum % COLOURS.len()).copied().unwrap_or_default();
    text.extend_from_slice(format!("\x1b[{colour}m").as_bytes());
    text.extend_from_slice(head);
    text.extend_from_slice(b"\x1b[0m");
    text.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_coloured_however_the_lines_come() {
        let lines = b"2026-11-21T10:00:00.000000+00:00 app[web.1]: a ]: \xff\nodd\n2026 heroku[web.1]: b\n";
        let shown = |step: usize| {
            let mut screen = Screen { out: Vec::new(), colour: true, partial: Vec::new() };
            lines.chunks(step).for_each(|bytes| assert!(screen.show(bytes).is_continue()));
            screen.out
        };
        let all = shown(1000);
        assert!(all.ends_with(b"b\n") && all.windows(5).filter(|five| five == b"\x1b[0m ").count() == 2);
        assert!(String::from_utf8_lossy(&all).contains("app[web.1]:\x1b[0m a ]: "));
        assert_eq!(shown(1), all);
    }
}
