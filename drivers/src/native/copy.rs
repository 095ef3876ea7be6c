//! A copy of the files of an app for one dyno, owned by it: what is left where the kernel cannot show shared files
//! as its own.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;

use crate::held::Held;

/// Whether all in a folder have the owner and the group of the folder itself. What cannot be read counts for nothing.
pub(super) fn has_one_owner(dir: &Path) -> bool {
    let Ok(owner) = fs::metadata(dir).map(|dir| (dir.uid(), dir.gid())) else { return true };
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if (found.uid(), found.gid()) != owner {
                return false;
            }
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    true
}

/// Copies a folder, modes and links included. Who may write to it may do so meanwhile.
pub(super) fn copy_owned(from: &Path, to: &Path, uid: u32) -> io::Result<()> {
    copy_dir(&Held::at(from)?, to, uid)
}

fn copy_dir(from: &Held, to: &Path, uid: u32) -> io::Result<()> {
    fs::create_dir(to)?;
    for name in from.names()? {
        let (source, target) = (from.within(&name)?, to.join(&name));
        let kind = source.metadata().file_type();
        if kind.is_dir() {
            copy_dir(&source, &target, uid)?;
        } else if kind.is_symlink() {
            symlink(source.target()?, &target)?;
            lchown(&target, Some(uid), Some(uid))?;
        } else if kind.is_file() {
            fs::copy(source.path(), &target)?;
            chown(&target, Some(uid), Some(uid))?;
        }
    }
    // last, since a folder may be one that its owner cannot write to
    fs::set_permissions(to, from.metadata().permissions())?;
    chown(to, Some(uid), Some(uid))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

    use super::*;

    #[test]
    fn a_copy_has_the_files_folders_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/run"), "text").unwrap();
        fs::set_permissions(from.join("bin/run"), PermissionsExt::from_mode(0o750)).unwrap();
        fs::set_permissions(from.join("bin"), PermissionsExt::from_mode(0o500)).unwrap();
        symlink("/no/such/file", from.join("link")).unwrap();
        let own = fs::metadata(&from).unwrap().uid();
        copy_owned(&from, &to, own).unwrap();
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("bin"), mode("bin/run")), (0o500, 0o750));
        assert_eq!(fs::read_to_string(to.join("bin/run")).unwrap(), "text");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/no/such/file"));
        fs::set_permissions(from.join("bin"), PermissionsExt::from_mode(0o700)).unwrap();
        fs::set_permissions(to.join("bin"), PermissionsExt::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_link_that_takes_the_place_of_a_file_or_of_a_folder_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let own = fs::metadata(dir.path()).unwrap().uid();
        fs::create_dir_all(at("secrets")).unwrap();
        fs::write(at("secrets/key"), "secret").unwrap();
        for (of, secret, leak) in [("files", "secrets/key", "to/it"), ("folders", "secrets", "to/it/key")] {
            let (from, link) = (at(of), at(of).with_extension("link"));
            fs::create_dir(&from).unwrap();
            if of == "files" {
                fs::write(from.join("it"), "").unwrap()
            } else {
                fs::create_dir(from.join("it")).unwrap()
            }
            symlink(at(secret), &link).unwrap();
            let over = AtomicBool::new(false);
            let leaked = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let it = from.join("it");
                        renameat2(AT_FDCWD, &link, AT_FDCWD, &it, RenameFlags::RENAME_EXCHANGE).unwrap();
                    }
                });
                let leaks = || {
                    copy_owned(&from, &at("to"), own).unwrap();
                    let leaks =
                        !at("to/it").is_symlink() && fs::read(at(leak)).is_ok_and(|read| !read.is_empty());
                    fs::remove_dir_all(at("to")).unwrap();
                    leaks
                };
                let leaked = (0..150).any(|_| leaks());
                over.store(true, Ordering::Relaxed);
                leaked
            });
            assert!(!leaked, "{of}");
        }
    }
}
