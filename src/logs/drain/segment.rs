//! A segment: a file of the spool that holds parcels one after the other. It is only ever appended to, so that whatever
//! ends hsup, all but the record that was being written can be read.
//!
//! A record is `length crc lane lines id body`: the length of what follows the checksum, as 32 bits, the CRC-32 of that,
//! the lane as 8 bits, the number of frames as 32 bits, the id as 128 bits, and the frames. Numbers are little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::parcel::{FrameId, Parcel};

/// What stands before the frames of a record.
const HEAD_BYTES: usize = 4 + 4 + 1 + 4 + 16;

/// The largest record that is believed; hsup writes none of a tenth of it.
const MAX_RECORD_BYTES: usize = 64 << 20;

/// The mode of the files: they hold what dynos print.
const MODE: u32 = 0o600;

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) lines: u64,
}

impl Segment {
    /// A new one, with nothing in it. There is no file yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, bytes: 0, lines: 0 }
    }

    /// One that is there: counts what is in it. What follows the last whole record is cut off.
    ///
    /// # Errors
    /// If it cannot be read or cut.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut segment = Self::new(path.to_owned());
        let mut reader = SegmentReader::open(path)?;
        while let Some(parcel) = reader.next()? {
            segment.lines += u64::from(parcel.lines);
            segment.bytes = reader.offset;
        }
        let length = std::fs::metadata(path)?.len();
        if length > segment.bytes {
            tracing::warn!(
                "{}: the last {} bytes are damaged and cut off",
                path.display(),
                length - segment.bytes
            );
            OpenOptions::new().write(true).open(path)?.set_len(segment.bytes)?;
        }
        Ok(segment)
    }

    /// The file, to be appended to.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn writer(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(MODE).open(&self.path)
    }

    /// Appends a parcel; where that fails, nothing has been appended.
    ///
    /// # Errors
    /// If it cannot be written, for instance since the disk is full.
    pub(super) fn append(&mut self, file: &mut File, parcel: &Parcel) -> io::Result<()> {
        let head = head(parcel);
        let written = file.write_all(&head).and_then(|()| file.write_all(&parcel.body));
        if let Err(error) = written {
            let _cut_off_when_it_is_read = file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += (HEAD_BYTES + parcel.body.len()) as u64;
        self.lines += u64::from(parcel.lines);
        Ok(())
    }
}

fn head(parcel: &Parcel) -> Vec<u8> {
    let mut content = vec![parcel.lane];
    content.extend_from_slice(&parcel.lines.to_le_bytes());
    content.extend_from_slice(&parcel.id.0.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&content);
    crc.update(&parcel.body);
    let length = u32::try_from(content.len() + parcel.body.len()).unwrap_or(u32::MAX);
    let mut head = length.to_le_bytes().to_vec();
    head.extend_from_slice(&crc.finalize().to_le_bytes());
    head.extend_from_slice(&content);
    head
}

/// Reads the parcels of a segment in order.
pub(super) struct SegmentReader {
    file: File,
    /// Where the next record begins.
    pub(super) offset: u64,
}

impl SegmentReader {
    /// Begins at the first one.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, offset: 0 })
    }

    /// The next parcel; none where what follows is no whole record.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Parcel>> {
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut head = [0; HEAD_BYTES];
        if !read_whole(&mut self.file, &mut head)? {
            return Ok(None);
        }
        let (numbers, content) = head.split_at(8);
        let number = |at: usize| numbers[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let (length, crc) = (number(0) as usize, number(4));
        if !(content.len()..=MAX_RECORD_BYTES).contains(&length) {
            return Ok(None);
        }
        let mut body = vec![0; length - content.len()];
        if !read_whole(&mut self.file, &mut body)? {
            return Ok(None);
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(content);
        hasher.update(&body);
        if hasher.finalize() != crc {
            return Ok(None);
        }
        self.offset += (HEAD_BYTES + body.len()) as u64;
        let lines = content[1..5].try_into().map_or(0, u32::from_le_bytes);
        let id = FrameId(content[5..].try_into().map_or(0, u128::from_le_bytes));
        Ok(Some(Parcel { id, lane: content[0], lines, body: Bytes::from(body), segment: None }))
    }
}

/// Fills the buffer; whether there was enough.
fn read_whole(file: &mut File, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(n: u8) -> Parcel {
        let body = Bytes::from(vec![n; 10]);
        Parcel { id: FrameId(u128::from(n) << 64), lane: n, lines: 2, body, segment: None }
    }

    #[test]
    fn parcels_come_back_and_a_torn_record_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let mut segment = Segment::new(dir.path().join("1"));
        let mut file = segment.writer().unwrap();
        for n in 0..3 {
            segment.append(&mut file, &parcel(n)).unwrap();
        }
        let whole = std::fs::read(&segment.path).unwrap();
        assert_eq!(whole.len() as u64, segment.bytes);
        let records = |path: &Path| {
            let mut reader = SegmentReader::open(path).unwrap();
            std::iter::from_fn(|| reader.next().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(records(&segment.path), [parcel(0), parcel(1), parcel(2)]);
        let record = whole.len() / 3;
        for length in 2 * record..whole.len() {
            std::fs::write(&segment.path, &whole[..length]).unwrap();
            let opened = Segment::open(&segment.path).unwrap();
            assert_eq!((opened.lines, opened.bytes), (4, 2 * record as u64), "{length}");
            assert_eq!(records(&segment.path), [parcel(0), parcel(1)]);
        }
        let mut damaged = whole.clone();
        damaged[record + HEAD_BYTES] ^= 1;
        std::fs::write(&segment.path, damaged).unwrap();
        assert_eq!(Segment::open(&segment.path).unwrap().lines, 2);
    }
}
