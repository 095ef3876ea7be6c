use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::fcntl::openat;
use nix::sys::stat::mkdirat;

use super::*;

#[test]
fn all_that_is_in_it_goes_and_what_symlinks_lead_to_stays() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    fs::write(outside.path().join("dir/file"), "").unwrap();
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("dynos/web.1");
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::create_dir_all(dir.join("removing-1/x")).unwrap();
    fs::write(dir.join("removing-2"), "").unwrap();
    fs::write(dir.join("a/b/file"), "").unwrap();
    symlink(outside.path(), dir.join("out")).unwrap();
    symlink(outside.path().join("dir"), dir.join("a/b/out")).unwrap();
    symlink("/", dir.join("a/root")).unwrap();
    // What an overlay leaves behind.
    fs::set_permissions(dir.join("a/b/c"), fs::Permissions::from_mode(0o000)).unwrap();

    assert!(remove_below(state.path(), &dir).unwrap());

    assert!(!dir.exists());
    assert!(outside.path().join("dir/file").exists());
    assert!(!remove_below(state.path(), &dir).unwrap());
    assert!(!remove_below(state.path(), &state.path().join("none/web.1")).unwrap());
}

#[test]
fn a_path_that_leads_out_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    let state = tempfile::tempdir().unwrap();
    symlink(outside.path(), state.path().join("out")).unwrap();
    fs::create_dir_all(state.path().join("slugs/v1")).unwrap();
    symlink("slugs", state.path().join("aside")).unwrap();
    fs::write(state.path().join("file"), "").unwrap();
    for dir in [
        outside.path().to_owned(),
        state.path().to_owned(),
        state.path().join("../x"),
        state.path().join("a/../.."),
        state.path().join("out"),
        state.path().join("out/dir"),
        state.path().join("aside/v1"),
        state.path().join("file"),
        "relative".into(),
        "/".into(),
    ] {
        assert!(remove_below(state.path(), &dir).is_err(), "{}", dir.display());
    }
    assert!(outside.path().join("dir").exists());
    assert!(state.path().join("file").exists());
}

#[test]
fn depth_is_no_trouble() {
    let state = tempfile::tempdir().unwrap();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = open(state.path(), flags, Mode::empty()).unwrap();
    for _ in 0..5_000 {
        mkdirat(&dir, "deep", Mode::S_IRWXU).unwrap();
        dir = openat(&dir, "deep", flags, Mode::empty()).unwrap();
    }
    assert!(remove_below(state.path(), &state.path().join("deep")).unwrap());
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}
