//! What a dyno would inherit of hsup's own standing on the host, which the host's administrator, or systemd, has given to
//! hsup and not to its dynos: it begins with that of an ordinary process.

use std::io;

use nix::errno::Errno;
use nix::libc::rlim_t;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::protocol::Failure;
use crate::{guardian, sys};

/// The limits of an ordinary process, as the kernel and systemd give them: soft and hard. Others are set for each
/// dyno; that of pending signals depends on the host's memory and stays.
const LIMITS: [(Resource, rlim_t, rlim_t); 11] = [
    (Resource::RLIMIT_AS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_CORE, 0, 0),
    (Resource::RLIMIT_CPU, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_DATA, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (Resource::RLIMIT_MSGQUEUE, 819_200, 819_200),
    (Resource::RLIMIT_NICE, 0, 0),
    (Resource::RLIMIT_RTPRIO, 0, 0),
    (Resource::RLIMIT_RTTIME, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_STACK, 8 << 20, RLIM_INFINITY),
];

/// Forgets it all. To be called while the process is root.
pub(super) fn forget() -> Result<(), Failure> {
    LIMITS.into_iter().try_for_each(|(resource, soft, hard)| limit(resource, soft, hard))?;
    sys::reset_scheduling().map_err(Failure::io("reset the priorities of the process"))?;
    be_killable().map_err(Failure::io("reset the score of the out-of-memory killer"))
}

/// Sets a limit. One that was lowered for hsup stays where hsup may not raise it, as in a container.
pub(super) fn limit(resource: Resource, soft: u64, hard: u64) -> Result<(), Failure> {
    let failed = |errno| Failure::step(format!("set the limit {resource:?}"))(errno);
    match setrlimit(resource, soft.min(hard), hard) {
        Err(Errno::EPERM) => {
            let (_, most) = getrlimit(resource).map_err(failed)?;
            setrlimit(resource, soft.min(most), most.min(hard)).map_err(failed)
        }
        set => set.map_err(failed),
    }
}

/// A dyno is the first to be killed when the host runs out of memory, not the last, whatever hsup is.
fn be_killable() -> io::Result<()> {
    match guardian::oom_score()? {
        ..0 => std::fs::write(guardian::OOM_SCORE, "0"),
        0.. => Ok(()),
    }
}
