//! A batch: lines that one dyno printed and that were read at once. It is made once and shared by everything that
//! takes lines; nobody copies or changes it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use memchr::memchr_iter;

use crate::model::DynoName;

/// Where lines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The dyno's standard output.
    Stdout,
    /// The dyno's standard error.
    Stderr,
    /// hsup itself, about the dyno.
    Platform,
}

impl Origin {
    /// What Heroku's logs call it: what dynos print is the `app`'s, what is said of them `heroku`'s.
    pub fn source(self) -> &'static str {
        match self {
            Self::Stdout | Self::Stderr => "app",
            Self::Platform => "heroku",
        }
    }
}

/// Whose lines they are: a dyno, or a part of hsup that speaks for itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Speaker {
    name: Option<DynoName>,
    text: String,
}

impl Speaker {
    /// A dyno.
    pub fn dyno(name: &DynoName) -> Arc<Self> {
        Arc::new(Self { name: Some(name.clone()), text: name.to_string() })
    }

    /// What ships log lines, as Heroku calls it.
    pub(super) fn logplex() -> Arc<Self> {
        Arc::new(Self { name: None, text: "logplex".to_owned() })
    }

    /// The dyno, where it is one.
    pub fn name(&self) -> Option<&DynoName> {
        self.name.as_ref()
    }

    /// Its name: `web.1`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// One line, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes, whatever they are.
    pub bytes: &'a [u8],
    /// Whether it is only a part of a line that was too long, which goes on in the next batch of the same origin.
    pub cut: bool,
}

/// Below this many bytes a text is looked through byte by byte. To ask what the processor can do faster takes a tenth of a
/// millisecond in a virtual machine, once, and hsup that runs one short command need not.
const SHORT: usize = 256;

/// Lines that were read at once.
pub struct Batch {
    /// Who printed them.
    pub speaker: Arc<Speaker>,
    /// Where they come from.
    pub origin: Origin,
    /// When they were read.
    pub at: SystemTime,
    /// Each line with its newline; the last one without where it is cut.
    bytes: Box<[u8]>,
    lines: u64,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines of {} ({:?})", self.lines, self.speaker.as_str(), self.origin)
    }
}

impl Batch {
    /// A batch of lines that each end with a newline; the last one may lack it, and is then cut.
    pub fn new(speaker: Arc<Speaker>, origin: Origin, at: SystemTime, bytes: Vec<u8>) -> Self {
        let whole = match bytes.len() {
            ..SHORT => bytes.iter().filter(|byte| **byte == b'\n').count(),
            SHORT.. => memchr_iter(b'\n', &bytes).count(),
        };
        let cut = usize::from(bytes.last().is_some_and(|last| *last != b'\n'));
        Self { speaker, origin, at, bytes: bytes.into_boxed_slice(), lines: (whole + cut) as u64 }
    }

    /// How many lines there are.
    pub fn len(&self) -> u64 {
        self.lines
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Its lines and their newlines.
    pub fn text(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes its lines and their newlines are.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The memory that it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The batch itself, its counters, what the allocator adds to both of its pieces, and a place in a queue.
        const OVERHEAD: usize = 160;
        self.bytes.len() + OVERHEAD
    }

    /// The lines, the last one first.
    pub fn lines_backwards(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        text.rsplit(|byte| *byte == b'\n')
    }

    /// The lines in order.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest: &[u8] = &self.bytes;
        let mut ends = memchr_iter(b'\n', &self.bytes);
        let mut start = 0;
        std::iter::from_fn(move || match ends.next() {
            Some(end) => {
                let (line, after) = rest.split_at(end - start);
                rest = after.get(1..).unwrap_or_default();
                start = end + 1;
                Some(Line { bytes: line, cut: false })
            }
            None if rest.is_empty() => None,
            None => Some(Line { bytes: std::mem::take(&mut rest), cut: true }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> (u64, Vec<(Vec<u8>, bool)>) {
        let speaker = Speaker::dyno(&"web.1".parse().unwrap());
        let batch = Batch::new(speaker, Origin::Stdout, SystemTime::UNIX_EPOCH, bytes.to_vec());
        (batch.len(), batch.lines().map(|line| (line.bytes.to_vec(), line.cut)).collect())
    }

    #[test]
    fn lines_come_without_their_newlines_and_a_cut_one_says_so() {
        let whole = |text: &str| (text.as_bytes().to_vec(), false);
        assert_eq!(lines(b"a\n\nb\xff\n"), (3, vec![whole("a"), whole(""), (b"b\xff".to_vec(), false)]));
        assert_eq!(lines(b"a\nrest"), (2, vec![whole("a"), (b"rest".to_vec(), true)]));
        assert_eq!(lines(b""), (0, vec![]));
    }
}
