//! Slugs: gzipped tars of `./app/...`, good and bad ones, made with the host's `tar`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// Packs files (path below the app's directory, text) into a slug; those under `bin/` are executable.
pub fn pack(dir: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let stage = dir.join(format!("{name}.stage"));
    for (path, text) in files {
        let path = stage.join("app").join(path);
        fs::create_dir_all(path.parent().expect("the path has a directory"))
            .expect("a directory can be made");
        fs::write(&path, text).expect("a file can be written");
        let mode = if path.parent().is_some_and(|dir| dir.ends_with("bin")) { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
    }
    tar(dir, name, &["-C".as_ref(), &stage, "./app".as_ref()])
}

/// The SHA-256 of a slug, as hexadecimal digits.
pub fn sha256(slug: &Path) -> String {
    let digest = Sha256::digest(fs::read(slug).expect("the slug can be read"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A slug with a file whose name in the archive leads out of it, to `evil` beside the directory of the slugs.
pub fn pack_climbing(dir: &Path, name: &str) -> PathBuf {
    let stage = dir.join(format!("{name}.stage"));
    fs::create_dir_all(stage.join("app")).expect("a directory can be made");
    fs::write(stage.join("app/evil"), "evil").expect("a file can be written");
    let climb = "--transform=s,app/evil,app/../../../../evil,";
    tar(dir, name, &["-P".as_ref(), climb.as_ref(), "-C".as_ref(), &stage, "app/evil".as_ref()])
}

fn tar(dir: &Path, name: &str, args: &[&Path]) -> PathBuf {
    let slug = dir.join(name);
    let status = Command::new("tar").arg("-czf").arg(&slug).args(args).status().expect("there is a tar");
    assert!(status.success(), "tar could not make {}", slug.display());
    slug
}
