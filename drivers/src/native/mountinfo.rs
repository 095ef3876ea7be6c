//! A parser of proc_pid_mountinfo(5): where something is mounted. It only reads.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points at or below a directory, in the order in which they were mounted; to unmount them, begin at
/// the end. Several mounts on one point are as many entries. `dir` has to be a real path, without symlinks.
///
/// `text` is that of `/proc/self/mountinfo`; lines that are none are left out.
pub fn mounts_below(text: &[u8], dir: &Path) -> Vec<PathBuf> {
    entries_below(text, dir).map(|entry| entry.point).collect()
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The number of the mount.
    pub(super) id: u64,
    /// Where it is.
    pub(super) point: PathBuf,
    /// What is set for it, apart from what is set for its file system: `ro,nosuid`.
    pub(super) options: String,
}

/// The mounts that [`mounts_below`] lists, with more of what their lines say.
pub(super) fn entries_below(text: &[u8], dir: &Path) -> impl Iterator<Item = Entry> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(entry).filter(move |entry| entry.point.starts_with(dir))
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = fields.nth(3).filter(|field| field.starts_with(b"/"))?;
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Entry { id, point: PathBuf::from(OsString::from_vec(unescape(point))), options })
}

/// The kernel writes blank, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'\\').then(|| octal(after)).flatten();
        plain.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 28 7:0 / /state/stacks/heroku-24 ro,relatime - squashfs /dev/loop0 ro
41 28 7:1 / /state/stacks/a\\040b\\134\\011\\012c ro - squashfs /dev/loop1 ro
42 28 7:2 / /state/stacks-of-others ro - squashfs /dev/loop2 ro
43 40 0:50 / /state/stacks/heroku-24/tmp rw shared:3 master:4 - tmpfs none rw
44 40 0:51 / /state/stacks/heroku-24/tmp rw - tmpfs none rw
45 28 0:52 / /state/stacks/\xff\xfe rw - tmpfs none rw
46 28 0:53 / /state/stacks/end\\04 rw - tmpfs none rw

garbage
47 28
";

    #[test]
    fn points_below_a_directory_are_found_in_order_and_unescaped() {
        let odd = PathBuf::from(OsString::from_vec(b"/state/stacks/\xff\xfe".to_vec()));
        let found = mounts_below(TEXT, Path::new("/state/stacks"));
        let expected = [
            Path::new("/state/stacks/heroku-24"),
            Path::new("/state/stacks/a b\\\t\nc"),
            Path::new("/state/stacks/heroku-24/tmp"),
            Path::new("/state/stacks/heroku-24/tmp"),
            &odd,
            Path::new("/state/stacks/end\\04"),
        ];
        assert_eq!(found, expected);
        assert_eq!(mounts_below(TEXT, Path::new("/state/stacks/heroku-24")).len(), 3);
        assert!(mounts_below(TEXT, Path::new("/state/stack")).is_empty());
        let entry = entries_below(TEXT, Path::new("/proc")).next().unwrap();
        assert_eq!((entry.id, entry.options.as_str()), (22, "rw,nosuid"));
    }

    #[test]
    fn the_mounts_of_this_process_are_read() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        assert!(mounts_below(&text, Path::new("/")).contains(&PathBuf::from("/proc")));
    }
}
