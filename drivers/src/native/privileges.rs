//! What a dyno's process may not do: everything that init could is given up here, for good. The order is that of
//! the kernel's conditions: each step needs what a later one gives up.

use caps::CapSet;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::inherited::limit;
use super::protocol::Failure;
use super::seccomp::Filter;
use crate::sys;

/// The most open files of a process of a dyno, whatever the host's limit.
const OPEN_FILES: u64 = 1 << 20;

/// Gives up everything but what an unprivileged user has.
pub(super) fn drop_all(
    uid: u32,
    max_processes: u64,
    open_files: u64,
    filter: &Filter,
) -> Result<(), Failure> {
    // Limits first: to raise a hard one takes a privilege.
    limit(Resource::RLIMIT_NPROC, max_processes, max_processes)?;
    let (_, most) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(Failure::step("read the limit of open files"))?;
    limit(Resource::RLIMIT_NOFILE, open_files, most.min(OPEN_FILES))?;
    sys::join_new_session_keyring();
    // The bounding set while CAP_SETPCAP is still there, and the groups while CAP_SETGID is.
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability).map_err(refused("drop a capability"))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(refused("drop inheritable capabilities"))?;
    setgroups(&[]).map_err(Failure::step("drop the groups of hsup"))?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setresgid(gid, gid, gid).map_err(Failure::step("become the group of the dyno"))?;
    // With the last of root's three user ids all capabilities that are left go.
    setresuid(uid, uid, uid).map_err(Failure::step("become the user of the dyno"))?;
    prctl::set_no_new_privs().map_err(Failure::step("renounce new privileges"))?;
    // Last: none of the above is a call that a dyno may make.
    filter.apply()
}

fn refused(what: &str) -> impl FnOnce(caps::errors::CapsError) -> Failure {
    let what = what.to_owned();
    // the crate gives texts and no numbers
    move |error| Failure::Step { what: format!("{what} ({error})"), errno: libc::EPERM }
}
