//! The mounts of this thread, as `/proc/thread-self/mountinfo` lists them. The format: proc_pid_mountinfo(5).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// The directories that something is mounted on.
pub(super) struct Mounts(BTreeSet<PathBuf>);

impl Mounts {
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read(MOUNTINFO)?))
    }

    fn parse(text: &[u8]) -> Self {
        // ID, parent, device, root, mount point, ...
        let point = |line: &[u8]| Some(unescape(line.split(|byte| *byte == b' ').nth(4)?));
        Self(text.split(|byte| *byte == b'\n').filter_map(point).collect())
    }

    /// Whether something is mounted on a directory, whose path has no symlinks.
    pub(super) fn on(&self, dir: &Path) -> bool {
        self.0.contains(dir)
    }
}

/// Blank, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(escaped: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let [first, after @ ..] = rest {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match after.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_whatever_they_are_called() {
        let mounts = Mounts::parse(
            b"22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
              90 22 7:0 / /var/lib/a\\040b\\134c ro,nosuid shared:1 - squashfs /dev/loop0 ro\n",
        );
        assert!(mounts.on("/".as_ref()) && mounts.on("/var/lib/a b\\c".as_ref()));
        assert!(!mounts.on("/var/lib".as_ref()));
        assert!(Mounts::read().unwrap().on("/proc".as_ref()));
    }
}
