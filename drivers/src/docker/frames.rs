//! What hsup and the entry of a container say to one another over the container's standard streams.
//!
//! hsup sends frames: a byte that says of what kind, the length as four bytes in network order, and so many bytes. The
//! first is [`Frame::Start`]; the end of the input is the end of hsup. The entry answers with one byte before anything
//! that the dyno prints: [`STARTED`], or [`FAILED`] and what went wrong in JSON.

use std::io;

use serde::{Deserialize, Serialize};

/// The dyno is about to be executed; all that follows is its own.
pub(super) const STARTED: u8 = 0x06;
/// There will be no dyno; what follows says why.
pub(super) const FAILED: u8 = 0x15;

/// The longest frame: a start, with config vars of at most some megabytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The kind and the length.
const HEAD_BYTES: usize = 5;

/// What the entry is to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// The command line.
    pub(super) line: String,
    /// The environment, beside that of the image.
    pub(super) env: Vec<(String, String)>,
    /// Whether it reads what hsup sends; else its input is empty.
    pub(super) input: bool,
    /// The rows and the columns of its terminal, where it has one.
    pub(super) terminal: Option<[u16; 2]>,
    /// How long processes that outlive the main one have between SIGTERM and SIGKILL, in milliseconds.
    pub(super) grace_ms: u64,
}

/// One thing that hsup says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Start the dyno.
    Start(Start),
    /// What the dyno is to read.
    Input(Vec<u8>),
    /// There is no more to be read.
    EndOfInput,
    /// The rows and the columns of its terminal have changed.
    Window([u16; 2]),
}

impl Frame {
    /// The frame as it is sent.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Start(start) => {
                (b's', serde_json::to_vec(start).expect("text and numbers always serialise"))
            }
            Self::Input(bytes) => (b'i', bytes.clone()),
            Self::EndOfInput => (b'e', Vec::new()),
            Self::Window([rows, columns]) => (b'w', [rows.to_be_bytes(), columns.to_be_bytes()].concat()),
        };
        let length = u32::try_from(body.len()).expect("a frame is far shorter");
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.push(kind);
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Takes the first frame off what has been received, if all of it is there.
    ///
    /// # Errors
    /// If it is none: the other side is not hsup, or one of another version.
    pub(super) fn take(received: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let [kind, a, b, c, d, ..] = received[..] else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(io::Error::other)?;
        if length > MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if received.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        let rest = received.split_off(HEAD_BYTES + length);
        let body = &received[HEAD_BYTES..];
        let frame = match kind {
            b's' => Self::Start(serde_json::from_slice(body)?),
            b'i' => Self::Input(body.to_vec()),
            b'e' => Self::EndOfInput,
            b'w' => match *body {
                [a, b, c, d] => Self::Window([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            },
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        *received = rest;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent_however_they_are_cut() {
        let start = Start {
            line: "echo $A".to_owned(),
            env: vec![("A".to_owned(), "b\nc".to_owned())],
            input: true,
            terminal: Some([24, 300]),
            grace_ms: 1,
        };
        let frames =
            [Frame::Start(start), Frame::Input(vec![0, 255]), Frame::Window([1, 515]), Frame::EndOfInput];
        let (mut received, mut taken) = (Vec::new(), Vec::new());
        for byte in frames.iter().flat_map(Frame::encode) {
            received.push(byte);
            taken.extend(Frame::take(&mut received).unwrap());
        }
        assert_eq!(taken, frames);
        assert!(received.is_empty());
        for mut wrong in [vec![b'?', 0, 0, 0, 0], vec![b'i', 255, 0, 0, 0], vec![b'w', 0, 0, 0, 1, 0]] {
            assert!(Frame::take(&mut wrong).is_err());
        }
    }
}
