//! The digest that a stack must have, and whether a file has it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::str::FromStr;

use md5::{Digest, Md5};

use crate::archive::Archive;
use crate::blocking::Stop;
use crate::model::{InvalidDigest, Sha256Digest};

const CHUNK_BYTES: usize = 256 * 1024;

/// The digest of a stack's file as it is downloaded: of the gzipped file where it is gzipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256.
    Sha256(Sha256Digest),
    /// MD5, which tells a damaged file from a whole one, but not a forged one.
    Md5([u8; 16]),
}

/// Why a text is not an MD5 digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MD5 checksum {0:?} is not valid: write 32 hexadecimal digits")]
pub struct InvalidChecksum(String);

impl Checksum {
    /// Reads an MD5 digest.
    ///
    /// # Errors
    /// When it is none.
    pub fn md5(given: &str) -> Result<Self, InvalidChecksum> {
        let invalid = || InvalidChecksum(given.chars().take(80).collect());
        if given.len() != 32 || !given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut digest = [0; 16];
        for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&given[at..at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self::Md5(digest))
    }

    /// The digest of the same kind that an archive has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(self, archive: &mut Archive, stop: &Stop) -> io::Result<Self> {
        match self {
            Self::Sha256(_) => Ok(Self::Sha256(archive.digest)),
            Self::Md5(_) => md5_of(&mut archive.file, stop).map(Self::Md5),
        }
    }
}

fn md5_of(file: &mut File, stop: &Stop) -> io::Result<[u8; 16]> {
    let mut hash = Md5::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    file.rewind()?;
    loop {
        stop.check()?;
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => hash.update(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(hash.finalize().into())
}

impl FromStr for Checksum {
    type Err = InvalidDigest;

    /// Reads `SHA256:<hex>`.
    fn from_str(given: &str) -> Result<Self, Self::Err> {
        given.parse().map(Self::Sha256)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "SHA256:{digest}"),
            Self::Md5(digest) => {
                f.write_str("MD5:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn md5_is_that_of_md5sum() {
        let checksum = Checksum::md5("900150983CD24FB0d6963f7d28e17f72").unwrap();
        assert_eq!(checksum.to_string(), "MD5:900150983cd24fb0d6963f7d28e17f72");
        let mut archive = Archive { file: tempfile::tempfile().unwrap(), digest: Sha256Digest([0; 32]) };
        archive.file.write_all(b"abc").unwrap();
        assert_eq!(checksum.of(&mut archive, &Stop::default()).unwrap(), checksum);
        for bad in ["", "9001", &"g".repeat(32), &"é".repeat(16)] {
            assert!(Checksum::md5(bad).is_err(), "{bad}");
        }
    }
}
