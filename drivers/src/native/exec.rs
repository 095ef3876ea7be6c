//! Commands inside a dyno that runs: hsup's end of their attendants.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use super::cgroup::Cgroup;
use super::driver::beside;
use super::first_process::{FirstProcess, Started, reap};
use super::protocol::Request;
use super::start::{Starter, attach, step};
use super::wires::{Wires, wires};
use crate::{BoxFuture, DynoSpec, Exec, KillSignal, MainExit, Output, StartError, process, sys};

/// What a command is started inside of.
pub(super) struct Inside {
    pub(super) uid: u32,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    /// The pidfd of the dyno's init.
    pub(super) init: Arc<AsyncFd<OwnedFd>>,
}

/// An attendant, the ends of the pipes of its command, and whether it may go on.
type Cloned = (Started, Option<Output>, Result<(), StartError>);

/// A command inside a dyno.
pub(super) struct NativeExec {
    attendant: FirstProcess,
    output: Option<Output>,
}

impl Starter {
    /// Starts a command inside a dyno. Until it has been executed no thread waits for it: a dyno can hold that up.
    pub(super) async fn exec(
        self: Arc<Self>,
        spec: DynoSpec,
        inside: Inside,
    ) -> Result<NativeExec, StartError> {
        let (started, output, ready) = beside(false, move || self.clone_attendant(&spec, &inside)).await?;
        let attendant = FirstProcess::watch(started);
        let attendant =
            attendant.map_err(|source| StartError::System { operation: "watch the command", source })?;
        let begun = match ready {
            Ok(()) => attendant.begin().await,
            Err(error) => Err(error),
        };
        let exec = NativeExec { attendant, output };
        match begun {
            Ok(()) => Ok(exec),
            Err(error) => {
                exec.abandon();
                exec.gone().await;
                Err(error)
            }
        }
    }

    /// Has an attendant cloned. It waits to be told to go on, for which all is ready unless this failed.
    fn clone_attendant(&self, spec: &DynoSpec, inside: &Inside) -> Result<Cloned, StartError> {
        let Wires { control, output, stdio, init: mut fds } = wires(&spec.stdio)?;
        let Inside { uid, cgroup, init } = inside;
        let request = Request::Attendant(self.process(spec, *uid, cgroup.as_deref(), stdio)?);
        fds.push(init.as_fd().try_clone_to_owned().map_err(step("hand on the init of the dyno"))?);
        if let Some(cgroup) = cgroup.as_ref().and_then(|cgroup| cgroup.unified_dir()) {
            fds.push(cgroup.try_clone_to_owned().map_err(step("open the cgroup"))?);
        }
        // The attendant alone holds them from then on, and the end of the one is to mean the end of the other.
        let (pid, pidfd) = self.zygote.clone_attendant(&request, &fds)?;
        let ready = cgroup.as_ref().map_or(Ok(()), |cgroup| attach(cgroup, pid));
        Ok((Started { dyno: spec.name.clone(), pid, pidfd, control }, output, ready))
    }
}

impl NativeExec {
    /// Waits for the attendant, of which the dyno's init is not gone before it has been reaped.
    async fn gone(&self) {
        self.attendant.gone().await;
        reap(self.attendant.dyno(), self.attendant.pidfd().as_fd());
    }

    /// Kills an attendant, and before it what it has begun to start, which would be the dyno's for ever.
    fn abandon(&self) {
        let begun = || process::children(self.attendant.pid());
        for child in begun() {
            // Looked at once more: by the time that it is held its pid may be another's.
            if let Some(held) = sys::pidfd_open(child).ok().filter(|_| begun().contains(&child)) {
                let _gone = sys::pidfd_signal(held.as_fd(), KillSignal::Kill);
            }
        }
        let _gone = self.attendant.kill();
    }
}

impl Exec for NativeExec {
    fn take_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    fn exit(&mut self) -> BoxFuture<'_, MainExit> {
        Box::pin(async {
            let ended = self.attendant.reported().await;
            if ended.alone {
                self.gone().await;
            }
            ended
        })
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = self.attendant.let_go() {
                let dyno = self.attendant.dyno();
                tracing::warn!(dyno, %error, "cannot end a command inside a dyno");
            }
            self.gone().await;
        })
    }
}
