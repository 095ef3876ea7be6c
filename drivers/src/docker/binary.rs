//! The binary that is the entry of containers: whether it runs in any image, its digest, and what is in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::error::DockerError;

/// The kind of a program header that names an interpreter: the dynamic linker, which no image need have.
const PT_INTERP: u32 = 3;

/// The entry of containers. It stays open: when hsup is upgraded while it runs, there is another program at its path,
/// which nobody has looked at.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    file: Arc<File>,
    pub(super) size: u64,
    pub(super) digest: String,
}

impl Binary {
    /// That file; where none is named, the program that is running.
    ///
    /// # Errors
    /// If it cannot be read, or would not run in every image.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, DockerError> {
        let path = match named {
            Some(named) => named.to_owned(),
            None => std::env::current_exe().map_err(|source| DockerError::Io {
                operation: "find the running program by",
                path: "/proc/self/exe".into(),
                source,
            })?,
        };
        let mut bytes = Vec::new();
        let opened = File::open(&path).and_then(|mut file| {
            file.read_to_end(&mut bytes)?;
            Ok(Arc::new(file))
        });
        let file = opened.map_err(|source| DockerError::Io {
            operation: "read the entry of containers,",
            path: path.clone(),
            source,
        })?;
        match interpreter(&bytes) {
            Some(false) => Ok(Self { file, size: bytes.len() as u64, digest: hex(&Sha256::digest(&bytes)) }),
            Some(true) => Err(DockerError::Entry { path, why: "it is not linked statically".to_owned() }),
            None => Err(DockerError::Entry { path, why: "it is not a 64-bit Linux program".to_owned() }),
        }
    }

    /// Reads it from its beginning. Builds that run at once do not disturb each other.
    pub(super) fn read(&self) -> impl Read + use<> {
        FromStart { file: Arc::clone(&self.file), at: 0 }.take(self.size)
    }
}

/// A file that others read at the same time, each at a place of its own.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(bytes, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Whether a program names an interpreter; none if it is no 64-bit program in ELF (elf(5)).
fn interpreter(program: &[u8]) -> Option<bool> {
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        field
            .iter()
            .rev()
            .try_fold(0_usize, |number, byte| Some(number.checked_mul(256)? + usize::from(*byte)))
    };
    // 64-bit, and the lowest byte first
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).try_fold(false, |found, n| {
        let kind = number(headers.checked_add(n.checked_mul(size)?)?, 4)?;
        Some(found || u32::try_from(kind) == Ok(PT_INTERP))
    })
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_that_needs_an_interpreter_is_no_entry() {
        let shell = fs::read("/bin/sh").unwrap();
        assert_eq!(interpreter(&shell), Some(true));
        let mut without = shell.clone();
        let headers = usize::try_from(u64::from_le_bytes(shell[32..40].try_into().unwrap())).unwrap();
        let [size, count] = [54, 56].map(|at| usize::from(u16::from_le_bytes([shell[at], shell[at + 1]])));
        for n in 0..count {
            if without[headers + n * size] == 3 {
                without[headers + n * size] = 4;
            }
        }
        assert_eq!(interpreter(&without), Some(false));
        for none in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF\x02\x01", &shell[..60]] {
            assert_eq!(interpreter(none), None);
        }
        let error = Binary::find(Some(Path::new("/bin/sh"))).unwrap_err().to_string();
        assert!(error.contains("--docker-entry"), "{error}");
    }

    #[test]
    fn it_is_read_as_it_was_found_by_each_from_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entry");
        let program = [&b"\x7fELF\x02\x01"[..], &[0; 58], b"the old one"].concat();
        fs::write(&path, &program).unwrap();
        let binary = Binary::find(Some(&path)).unwrap();
        fs::write(dir.path().join("new"), "the new one").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let (mut one, mut two) = (binary.read(), binary.read());
        let (mut first, mut others) = ([0; 7], Vec::new());
        one.read_exact(&mut first).unwrap();
        two.read_to_end(&mut others).unwrap();
        assert_eq!(others, program);
        others.clear();
        one.read_to_end(&mut others).unwrap();
        assert_eq!([&first[..], &others].concat(), program);
    }
}
