//! A copy of the files of an app for one dyno, owned by it: what is left where the kernel cannot show shared files
//! as its own.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

use super::in_root::by_number;

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

/// Copies a folder, modes and links included.
///
/// Who may write to it may do so meanwhile, and need not be one who may read all that hsup may: each thing in it is held
/// first, so that what is copied is what was looked at, and no link that has taken its place is followed.
pub(super) fn copy_owned(from: &Path, to: &Path, uid: u32) -> io::Result<()> {
    copy_dir(&fs::File::open(from)?.into(), to, uid)
}

fn copy_dir(from: &OwnedFd, to: &Path, uid: u32) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(by_number(from))? {
        let name = entry?.file_name();
        let held = openat(from, name.as_os_str(), HELD, Mode::empty())?;
        let target = to.join(&name);
        match fstat(&held)?.st_mode & libc::S_IFMT {
            libc::S_IFDIR => copy_dir(&held, &target, uid)?,
            libc::S_IFLNK => {
                symlink(readlinkat(&held, "")?, &target)?;
                lchown(&target, Some(uid), Some(uid))?;
            }
            libc::S_IFREG => {
                fs::copy(by_number(&held), &target)?;
                chown(&target, Some(uid), Some(uid))?;
            }
            // What is none of these has no place in an app.
            _ => {}
        }
    }
    // last, since a folder may be one that its owner cannot write to
    fs::set_permissions(to, fs::metadata(by_number(from))?.permissions())?;
    chown(to, Some(uid), Some(uid))
}

/// How a thing is held that is not to be read yet: whatever it is, a link itself and not what it leads to.
const HELD: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

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
