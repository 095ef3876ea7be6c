//! Frames: log lines as syslog messages (RFC 5424), each behind its length in octets (RFC 6587, 3.4.1), as Heroku's
//! log-shuttle and logplex put them into requests of type `application/logplex-1`.

use std::time::SystemTime;

use crate::logs::batch::{Batch, Line, Origin};

/// `local7.info`, which log-shuttle gives to what apps print.
const PRIVAL_APP: u8 = 190;
/// `syslog.notice`, which logplex gives to what the platform says of dynos.
const PRIVAL_PLATFORM: u8 = 45;

/// The MSGID of a piece of a line that was too long: the message goes on in the next one of the same dyno.
const MSGID_PART: &str = "part";
/// The MSGID of all others: none.
const MSGID_NONE: &str = "-";

/// What RFC 5424 allows for a host name.
const MAX_HOST_BYTES: usize = 255;

/// Writes frames.
pub(super) struct Framer {
    host: String,
}

/// What stands before every message of a batch.
pub(super) struct Header {
    whole: Vec<u8>,
    part: Vec<u8>,
}

impl Framer {
    /// Frames that say they come from this host.
    pub(super) fn new(host: &str) -> Self {
        let host: String = host.chars().filter(char::is_ascii_graphic).take(MAX_HOST_BYTES).collect();
        Self { host: if host.is_empty() { MSGID_NONE.to_owned() } else { host } }
    }

    /// The header of a batch's messages. All have the time at which the batch was read.
    pub(super) fn header(&self, batch: &Batch) -> Header {
        let prival = match batch.origin {
            Origin::Stdout | Origin::Stderr => PRIVAL_APP,
            Origin::Platform => PRIVAL_PLATFORM,
        };
        let (time, host) = (rfc3339(batch.at), &self.host);
        let (source, speaker) = (batch.origin.source(), batch.speaker.as_str());
        let with = |msgid| format!(" <{prival}>1 {time} {host} {source} {speaker} {msgid} - ").into_bytes();
        Header { whole: with(MSGID_NONE), part: with(MSGID_PART) }
    }
}

impl Header {
    /// Appends the frame of a line.
    pub(super) fn append(&self, body: &mut Vec<u8>, line: Line<'_>) {
        let header = if line.cut { &self.part } else { &self.whole };
        // The blank between the length and the message counts for neither.
        let octets = header.len() - 1 + line.bytes.len();
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(octets).as_bytes();
        body.reserve(digits.len() + 1 + octets);
        body.extend_from_slice(digits);
        body.extend_from_slice(header);
        body.extend_from_slice(line.bytes);
    }
}

/// A time as Heroku's logs have it: `2026-11-21T10:00:00.000000+00:00`.
pub(in crate::logs) fn rfc3339(at: SystemTime) -> String {
    let at = at.max(SystemTime::UNIX_EPOCH);
    let mut text = humantime::format_rfc3339_micros(at).to_string();
    text.truncate(text.len() - 1);
    text + "+00:00"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::logs::batch::Speaker;

    fn frames(origin: Origin, bytes: &[u8]) -> String {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_600_800_000_001);
        let batch = Batch::new(Speaker::dyno(&"web.1".parse().unwrap()), origin, at, bytes.to_vec());
        let header = Framer::new("my host").header(&batch);
        let mut body = Vec::new();
        batch.lines().for_each(|line| header.append(&mut body, line));
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn frames_are_those_of_log_shuttle() {
        let expected = "66 <190>1 2026-11-25T10:00:00.000001+00:00 myhost app web.1 - - hello\
                        61 <190>1 2026-11-25T10:00:00.000001+00:00 myhost app web.1 - - ";
        assert_eq!(frames(Origin::Stdout, b"hello\n\n"), expected);
        let expected = "89 <45>1 2026-11-25T10:00:00.000001+00:00 myhost heroku web.1 - - \
                        Process exited with status";
        assert_eq!(frames(Origin::Platform, b"Process exited with status\n"), expected);
    }

    #[test]
    fn octets_are_counted_and_not_characters_and_a_cut_line_says_so() {
        let text = frames(Origin::Stderr, "é\nlong".as_bytes());
        assert_eq!(
            text,
            "63 <190>1 2026-11-25T10:00:00.000001+00:00 myhost app web.1 - - é\
             68 <190>1 2026-11-25T10:00:00.000001+00:00 myhost app web.1 part - long"
        );
    }

    #[test]
    fn a_host_name_that_cannot_be_sent_is_left_out() {
        assert_eq!(Framer::new("é ").host, "-");
        assert_eq!(Framer::new(&"x".repeat(300)).host.len(), 255);
    }
}
