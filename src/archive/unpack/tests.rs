//! Real archives, good ones and hostile ones. What the tar crate's builder would refuse is written as raw
//! headers.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;

const MODIFIED: u64 = 1_500_000_000;

/// An archive in the making.
struct Tar(Vec<u8>);

impl Tar {
    /// One that already holds `./app/`.
    fn of_app() -> Self {
        Self(Vec::new()).entry(b'5', "./app/", "", b"")
    }

    fn entry(self, kind: u8, name: &str, link: &str, content: &[u8]) -> Self {
        self.raw(kind, name.as_bytes(), link.as_bytes(), content, content.len() as u64, 0o644)
    }

    fn raw(mut self, kind: u8, name: &[u8], link: &[u8], content: &[u8], size: u64, mode: u32) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MODIFIED);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn gzipped(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        gzip(&self.0)
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unpack_within(bytes: &[u8], limits: Limits) -> (TempDir, Result<(), UnpackError>) {
    let temp = tempfile::tempdir().unwrap();
    let mut archive = tempfile::tempfile().unwrap();
    archive.write_all(bytes).unwrap();
    io::Seek::rewind(&mut archive).unwrap();
    fs::create_dir(temp.path().join("in")).unwrap();
    let outcome = unpack(archive, &temp.path().join("in/app"), Layout::Slug, limits, &Stop::default());
    (temp, outcome)
}

fn unpacked(bytes: &[u8]) -> (TempDir, PathBuf) {
    let (temp, outcome) = unpack_within(bytes, Limits::default());
    outcome.unwrap();
    let app_dir = temp.path().join("in/app");
    (temp, app_dir)
}

fn refusal(tar: Tar) -> String {
    let (temp, outcome) = unpack_within(&tar.gzipped(), Limits::default());
    // nothing may ever be beside the folder that it was to be unpacked in
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    outcome.unwrap_err().to_string()
}

#[test]
fn files_directories_and_links_keep_mode_and_time() {
    let tar = Tar(Vec::new())
        .entry(b'5', "./", "", b"")
        .raw(b'5', b"./app", b"", b"", 0, 0o2750)
        .raw(b'0', b"./app/bin/run", b"", b"#!", 2, 0o6755)
        .entry(b'2', "./app/link", "bin/run", b"")
        .entry(b'2', "./app/absolute", "/app/bin/run", b"")
        .entry(b'1', "./app/second", "./app/bin/run", b"")
        .raw(b'5', b"app/sealed/", b"", b"", 0, 0o500)
        .entry(b'0', "app/sealed/x", "", b"x");
    let (_temp, app) = unpacked(&tar.gzipped());
    let run = fs::metadata(app.join("bin/run")).unwrap();
    assert_eq!((run.mode() & 0o7777, run.mtime()), (0o755, MODIFIED as i64));
    assert_eq!(fs::read_link(app.join("link")).unwrap(), Path::new("bin/run"));
    assert_eq!(fs::symlink_metadata(app.join("link")).unwrap().mtime(), MODIFIED as i64);
    assert_eq!(fs::read_link(app.join("absolute")).unwrap(), Path::new("/app/bin/run"));
    assert_eq!(fs::metadata(app.join("second")).unwrap().ino(), run.ino());
    assert_eq!(fs::metadata(app.join("bin")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(app.join("sealed")).unwrap().mode() & 0o7777, 0o700);
    let root = fs::metadata(&app).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o750, MODIFIED as i64));
    assert_eq!(root.uid(), nix::unistd::geteuid().as_raw());
}

#[test]
fn long_names_and_names_in_other_encodings_work() {
    let long = format!("./app/{}/{}", "d".repeat(150), "f".repeat(150));
    let mut gnu = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    gnu.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let (_temp, app) = unpacked(&gzip(&gnu.into_inner().unwrap()));
    assert!(app.join("d".repeat(150)).join("f".repeat(150)).exists());

    let record = |text: &str| format!("{} {text}\n", text.len() + 5);
    let pax = record(&format!("path={long}"));
    let tar = Tar::of_app().entry(b'x', "pax", "", pax.as_bytes()).entry(b'0', "short", "", b"x");
    let (_temp, app) = unpacked(&tar.gzipped());
    assert!(app.join("d".repeat(150)).join("f".repeat(150)).exists());

    let tar = Tar::of_app().raw(b'0', b"app/caf\xe9", b"", b"x", 1, 0o644);
    let (_temp, app) = unpacked(&tar.gzipped());
    assert!(app.join(OsString::from_vec(b"caf\xe9".to_vec())).exists());
}

#[test]
fn global_pax_headers_and_several_gzip_members_work() {
    let tar = Tar(Vec::new())
        .entry(b'g', "pax_global_header", "", b"19 comment=abcdefg\n")
        .entry(b'0', "app/x", "", b"x");
    let mut bytes = tar.0;
    bytes.extend_from_slice(&[0; 1024]);
    let (one, two) = bytes.split_at(700);
    let (_temp, app) = unpacked(&[gzip(one), gzip(two)].concat());
    assert!(app.join("x").exists());
}

#[test]
fn what_is_no_gzipped_tar_is_refused() {
    let message = |bytes: &[u8]| unpack_within(bytes, Limits::default()).1.unwrap_err().to_string();
    for bytes in [&b""[..], b"PK\x03\x04 zip", b"\x1f", &Tar::of_app().0] {
        assert!(message(bytes).starts_with("is not a gzipped tar"), "{}", message(bytes));
    }
    assert!(message(&gzip(&[b'x'; 2000])).contains("holds no tar archive"));
    assert!(message(&gzip(b"short")).contains("holds no tar archive"));
    assert!(message(&gzip(b"")).contains("holds no ./app"));
    assert!(message(&gzip(&[0; 1024])).contains("holds no ./app"));
    assert!(message(b"\x1f\x8b\xff\xff\xff\xff\xff\xff\xff\xff\xff").starts_with("is not a gzipped tar"));
}

#[test]
fn a_cut_or_damaged_archive_is_refused() {
    let noise: Vec<u8> = (0_u32..40_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let whole = Tar::of_app().entry(b'0', "app/x", "", &noise).entry(b'0', "app/y", "", b"y").gzipped();
    for cut in [whole.len() / 2, whole.len() - 1, whole.len() - 8] {
        let error = unpack_within(&whole[..cut], Limits::default()).1.unwrap_err();
        assert!(matches!(error, UnpackError::CutShort { .. }), "{cut}: {error:?}");
    }
    let mut damaged = whole;
    let checksum = damaged.len() - 6;
    damaged[checksum] ^= 1;
    let error = unpack_within(&damaged, Limits::default()).1.unwrap_err();
    assert!(matches!(error, UnpackError::Damaged { .. }), "{error:?}");
    let mut tar = Tar::of_app().raw(b'0', b"app/x", b"", b"", 9000, 0o644).0;
    tar.truncate(1100);
    let error = unpack_within(&gzip(&tar), Limits::default()).1.unwrap_err();
    assert!(matches!(error, UnpackError::CutShort { entries: 2, .. }), "{error:?}");
}

#[test]
fn names_that_lead_out_are_refused() {
    for (name, why) in [
        ("/app/x", "absolute"),
        ("/etc/passwd", "absolute"),
        ("app/../../x", "`..`"),
        ("../x", "`..`"),
        ("./app/..", "`..`"),
        ("etc/passwd", "outside of ./app"),
        ("./application/x", "outside of ./app"),
        ("x", "outside of ./app"),
    ] {
        for kind in [b'0', b'5', b'2', b'1'] {
            let message = refusal(Tar::of_app().entry(kind, name, "app", b""));
            assert!(message.contains(why) && message.contains(name), "{message}");
        }
    }
    assert!(refusal(Tar(Vec::new()).entry(b'0', "app", "", b"")).contains("must be a directory"));
    assert!(refusal(Tar(Vec::new()).entry(b'2', "./app", "/etc", b"")).contains("must be a directory"));
    assert!(refusal(Tar(Vec::new()).entry(b'0', ".", "", b"")).contains("archive's top"));
}

#[test]
fn a_long_name_cannot_lead_out_either() {
    for name in ["app/../../x", "/etc/x"] {
        let long = Tar::of_app().entry(b'L', "././@LongLink", "", name.as_bytes());
        assert!(refusal(long.entry(b'0', "app/x", "", b"")).contains("refused"));
    }
}

#[test]
fn links_that_lead_out_are_refused_with_their_target() {
    for target in ["..", "../x", "/etc/passwd", "/usr/bin/python3", "/app/../etc", "a/../../.."] {
        let message = refusal(Tar::of_app().entry(b'2', "app/link", target, b""));
        assert!(message.contains("\"link\"") && message.contains(target), "{message}");
    }
    for target in ["/etc/passwd", "../x", "app/../../x", "etc/passwd", "link"] {
        let message = refusal(Tar::of_app().entry(b'1', "app/link", target, b""));
        assert!(message.contains("link\"") && message.contains(target), "{message}");
    }
    assert!(refusal(Tar::of_app().entry(b'1', "app/l", "app/missing", b"")).contains("not in the archive"));
    assert!(refusal(Tar::of_app().entry(b'2', "app/l", "", b"")).contains("names no target"));
    let winding =
        Tar::of_app().entry(b'2', "app/a/b/s", "../..", b"").entry(b'2', "app/t", "a/b/s/../x", b"");
    assert!(refusal(winding).contains("leads out"));
}

#[test]
fn a_planted_link_is_not_written_through() {
    for target in ["/tmp", "..", "/app/inside"] {
        for kind in [b'0', b'5', b'2'] {
            let tar = Tar::of_app()
                .entry(b'5', "app/inside", "", b"")
                .entry(b'2', "app/link", target, b"")
                .entry(kind, "app/link/evil", "x", b"");
            assert!(refusal(tar).contains("no place"));
        }
    }
    let tar = Tar::of_app().entry(b'2', "app/link", "/tmp", b"").entry(b'5', "app/link", "", b"");
    assert!(refusal(tar).contains("no place"));
    let tar = Tar::of_app().entry(b'2', "app/link", "inside", b"").entry(b'1', "app/h", "app/link/x", b"");
    assert!(refusal(tar).contains("not in the archive"));
}

#[test]
fn devices_and_the_like_are_refused() {
    for (kind, what) in [
        (b'3', "a character device"),
        (b'4', "a block device"),
        (b'6', "a FIFO"),
        (b'V', "unknown"),
        (b'M', "unknown"),
    ] {
        let message = refusal(Tar::of_app().entry(kind, "app/dev", "", b""));
        assert!(message.contains(what) && message.contains("app/dev"), "{message}");
    }
    let sparse = Tar::of_app().entry(b'x', "pax", "", b"22 GNU.sparse.major=1\n");
    assert!(refusal(sparse.entry(b'0', "app/s", "", b"")).contains("sparse"));
}

#[test]
fn a_bomb_is_stopped_by_the_limits() {
    let limits = Limits { unpacked_bytes: 1 << 20, files: 10, ..Limits::default() };
    let fails = |tar: Tar| unpack_within(&tar.gzipped(), limits).1.unwrap_err();
    let zeros = vec![0; 600_000];
    let large = Tar::of_app().entry(b'0', "app/a", "", &zeros).entry(b'0', "app/b", "", &zeros);
    assert!(matches!(fails(large), UnpackError::TooManyBytes { .. }));
    let announced = Tar::of_app().raw(b'0', b"app/a", b"", b"", 1 << 40, 0o644);
    assert!(matches!(fails(announced), UnpackError::TooManyBytes { .. }));
    let many = (0..10).fold(Tar::of_app(), |tar, n| tar.entry(b'0', &format!("app/{n}"), "", b""));
    assert!(matches!(fails(many), UnpackError::TooManyFiles { limit: 10 }));
    let name = Tar::of_app().entry(b'L', "././@LongLink", "", &vec![b'x'; 2 << 20]);
    assert!(matches!(fails(name), UnpackError::TooMuchMetadata));
    let body_of_link = Tar::of_app().entry(b'2', "app/l", "x", &vec![0; 2 << 20]);
    assert!(matches!(fails(body_of_link.entry(b'0', "app/x", "", b"")), UnpackError::TooMuchMetadata));
    let mut tail = Tar::of_app();
    tail.0.resize(4 << 20, 0);
    assert!(matches!(fails(tail), UnpackError::TooMuchMetadata));
}

#[test]
fn a_sparse_file_counts_in_full() {
    let sparse = |real_size: u64| {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..5].copy_from_slice(b"app/s");
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_size(0);
        let gnu = header.as_gnu_mut().unwrap();
        let octal = |field: &mut [u8; 12], n: u64| field.copy_from_slice(format!("{n:011o}\0").as_bytes());
        octal(&mut gnu.realsize, real_size);
        octal(&mut gnu.sparse[0].offset, real_size);
        octal(&mut gnu.sparse[0].numbytes, 0);
        header.set_cksum();
        let mut tar = Tar::of_app();
        tar.0.extend_from_slice(header.as_bytes());
        tar.gzipped()
    };
    let limits = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(unpack_within(&sparse(2 << 20), limits).1, Err(UnpackError::TooManyBytes { .. })));
    let (_temp, app) = unpacked(&sparse(5000));
    assert_eq!(fs::read(app.join("s")).unwrap(), vec![0; 5000]);
}

fn root_of(bytes: &[u8]) -> (TempDir, Result<PathBuf, UnpackError>) {
    let temp = tempfile::tempdir().unwrap();
    let mut archive = tempfile::tempfile().unwrap();
    archive.write_all(bytes).unwrap();
    io::Seek::rewind(&mut archive).unwrap();
    let root = temp.path().join("root");
    let outcome = unpack(archive, &root, Layout::Root, Limits::default(), &Stop::default());
    assert!(fs::read_dir(temp.path()).unwrap().count() <= 1);
    (temp, outcome.map(|()| root))
}

#[test]
fn a_root_file_system_keeps_modes_owners_and_links_and_has_no_devices() {
    let mut owned = Header::new_gnu();
    owned.as_mut_bytes()[..10].copy_from_slice(b"./usr/mail");
    owned.set_size(0);
    owned.set_mode(0o2755);
    owned.set_mtime(MODIFIED);
    owned.set_uid(12);
    owned.set_gid(8);
    owned.set_cksum();
    let mut tar = Tar(Vec::new())
        .raw(b'5', b"./", b"", b"", 0, 0o755)
        .raw(b'5', b"./tmp/", b"", b"", 0, 0o1777)
        .raw(b'0', b"./usr/bin/su", b"", b"x", 1, 0o4755)
        .entry(b'1', "usr/bin/su2", "./usr/bin/su", b"")
        .entry(b'2', "bin", "usr/bin", b"")
        .entry(b'2', "etc/mtab", "/proc/self/mounts", b"")
        .entry(b'2', "usr/up", "../../../..", b"")
        .entry(b'3', "dev/null", "", b"")
        .entry(b'6', "run/fifo", "", b"");
    tar.0.extend_from_slice(owned.as_bytes());
    let plain = [tar.0.as_slice(), &[0; 1024]].concat();
    for bytes in [gzip(&plain), plain] {
        let (_temp, root) = root_of(&bytes);
        let root = root.unwrap();
        let su = fs::metadata(root.join("usr/bin/su")).unwrap();
        assert_eq!((su.mode() & 0o7777, su.nlink()), (0o4755, 2));
        assert_eq!(fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(root.join("etc/mtab")).unwrap(), Path::new("/proc/self/mounts"));
        assert!(!root.join("dev/null").exists() && !root.join("run/fifo").exists());
        let mail = fs::metadata(root.join("usr/mail")).unwrap();
        assert_eq!(mail.mode() & 0o7777, 0o2755);
        if nix::unistd::geteuid().is_root() {
            assert_eq!((mail.uid(), mail.gid()), (12, 8));
        }
    }
}

#[test]
fn a_root_file_system_does_not_climb_out_either() {
    for (kind, name, link) in [
        (b'0', "../evil", ""),
        (b'0', "/evil", ""),
        (b'0', "usr/../../evil", ""),
        (b'1', "x", "../evil"),
        (b'1', "x", "/etc/passwd"),
    ] {
        let (_temp, outcome) = root_of(&Tar(Vec::new()).entry(kind, name, link, b"").gzipped());
        assert!(outcome.unwrap_err().to_string().contains("refused"), "{name} {link}");
    }
    let planted = Tar(Vec::new()).entry(b'2', "out", "/tmp", b"").entry(b'0', "out/evil", "", b"");
    assert!(matches!(root_of(&planted.gzipped()).1, Err(UnpackError::Blocked { .. })));
    assert!(matches!(root_of(&Tar(Vec::new()).gzipped()).1, Err(UnpackError::Empty)));
    assert!(matches!(root_of(b"").1, Err(UnpackError::Empty)));
    assert!(matches!(root_of(&[b'x'; 2000]).1, Err(UnpackError::Damaged { entries: 0, .. })));
}

#[test]
fn work_that_was_given_up_stops() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("slug.tgz");
    fs::write(&path, Tar::of_app().gzipped()).unwrap();
    let stop = Stop::default();
    stop.set();
    let archive = File::open(&path).unwrap();
    assert!(unpack(archive, &temp.path().join("app"), Layout::Slug, Limits::default(), &stop).is_err());
}
