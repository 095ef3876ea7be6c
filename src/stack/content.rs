//! What a file holds, told by its first bytes and never by its name. It reads; it must not change anything.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};

use flate2::read::MultiGzDecoder;

/// The first bytes that tell: the superblocks of ext and erofs end before.
const HEAD_BYTES: u64 = 4096;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A file system that an image may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4, which have the same superblock.
    Ext,
    /// XFS.
    Xfs,
    /// EROFS.
    Erofs,
    /// SquashFS.
    Squashfs,
}

impl FileSystem {
    /// The types to mount it as, the first that the kernel takes counting, and the mount options.
    pub(super) fn mount_types(self) -> (&'static [&'static str], Option<&'static str>) {
        match self {
            // the ext4 driver reads all three where the others are not there
            Self::Ext => (&["ext4", "ext3", "ext2"], None),
            // two copies of one image have the same id, which XFS would refuse
            Self::Xfs => (&["xfs"], Some("nouuid")),
            Self::Erofs => (&["erofs"], None),
            Self::Squashfs => (&["squashfs"], None),
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext => "ext",
            Self::Xfs => "xfs",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        })
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Tar,
    Image(FileSystem),
}

/// Why a file is no stack.
#[derive(Debug, thiserror::Error)]
pub enum BadContent {
    /// It cannot be read, or is not the gzip data that it begins as.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// It begins like nothing that hsup knows.
    #[error(
        "{0}; a stack is a root tarball (.tgz, .tar) or a file system image (ext2/3/4, xfs, erofs, squashfs), gzipped or not"
    )]
    Unknown(&'static str),
}

/// Looks into a file, which is at its beginning again afterwards. Says too whether it is gzipped.
///
/// # Errors
/// When it is neither a tar nor an image.
pub(super) fn probe(file: &mut File) -> Result<(Content, bool), BadContent> {
    let unreadable = BadContent::Unreadable;
    file.rewind().map_err(unreadable)?;
    let mut head = head_of(&mut *file).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    let gzipped = head.starts_with(&GZIP_MAGIC);
    if gzipped {
        head = head_of(MultiGzDecoder::new(&mut *file)).map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
    }
    Ok((tell(&head).map_err(BadContent::Unknown)?, gzipped))
}

fn head_of(from: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    match from.take(HEAD_BYTES).read_to_end(&mut head) {
        // where a file that is cut short ends is said by whoever reads all of it
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Ok(_) | Err(_) => Ok(head),
    }
}

/// Tells by the magic numbers.
fn tell(head: &[u8]) -> Result<Content, &'static str> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let image = |file_system| Ok(Content::Image(file_system));
    match () {
        () if head.is_empty() => Err("it is empty"),
        () if at(257, b"ustar") => Ok(Content::Tar),
        () if at(0, b"hsqs") => image(FileSystem::Squashfs),
        () if at(0, b"XFSB") => image(FileSystem::Xfs),
        () if at(1024, &0xE0F5_E1E2_u32.to_le_bytes()) => image(FileSystem::Erofs),
        () if at(1080, &0xEF53_u16.to_le_bytes()) => image(FileSystem::Ext),
        () if at(0, b"\xfd7zXZ") => Err("it is compressed with xz: unpack it with unxz first"),
        () if at(0, b"\x28\xb5\x2f\xfd") => Err("it is compressed with zstd: unpack it with unzstd first"),
        () if at(0, b"BZh") => Err("it is compressed with bzip2: unpack it with bunzip2 first"),
        () if at(510, b"\x55\xaa") => Err("it is a disk with partitions: use the image of one file system"),
        () => Err("its first bytes are those of neither"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn head(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 4096];
        head[offset..offset + magic.len()].copy_from_slice(magic);
        head
    }

    #[test]
    fn content_is_told_by_magic() {
        assert_eq!(tell(&head(257, b"ustar\0")), Ok(Content::Tar));
        assert_eq!(tell(&head(0, b"hsqs")), Ok(Content::Image(FileSystem::Squashfs)));
        assert_eq!(tell(&head(0, b"XFSB")), Ok(Content::Image(FileSystem::Xfs)));
        assert_eq!(tell(&head(1024, b"\xe2\xe1\xf5\xe0")), Ok(Content::Image(FileSystem::Erofs)));
        assert_eq!(tell(&head(1080, b"\x53\xef")), Ok(Content::Image(FileSystem::Ext)));
        for bad in [&b""[..], b"x", b"BZh9", &[0; 4096], &head(510, b"\x55\xaa")] {
            assert!(tell(bad).is_err());
        }
    }

    #[test]
    fn gzip_is_seen_through_and_the_file_is_rewound() {
        let mut file = tempfile::tempfile().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
        gzip.write_all(&head(0, b"hsqs")).unwrap();
        gzip.finish().unwrap();
        assert_eq!(probe(&mut file).unwrap(), (Content::Image(FileSystem::Squashfs), true));
        assert_eq!(file.stream_position().unwrap(), 0);
        let mut plain = tempfile::tempfile().unwrap();
        plain.write_all(b"no stack at all").unwrap();
        assert!(probe(&mut plain).unwrap_err().to_string().contains("root tarball"));
    }
}
