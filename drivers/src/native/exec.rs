//! Commands inside a dyno that runs: hsup's end of their attendants.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use super::cgroup::Cgroup;
use super::driver::beside;
use super::first_process::{FirstProcess, Started, Unstarted, begin, reap};
use super::protocol::Request;
use super::start::{Starter, attach, step};
use super::wires::{Wires, wires};
use crate::{BoxFuture, DynoSpec, Exec, MainExit, Output, StartError};

/// What a command is started inside of.
pub(super) struct Inside {
    pub(super) uid: u32,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    /// The pidfd of the dyno's init.
    pub(super) init: Arc<AsyncFd<OwnedFd>>,
}

/// A command inside a dyno.
pub(super) struct NativeExec {
    attendant: FirstProcess,
    output: Option<Output>,
}

impl Starter {
    /// Starts a command inside a dyno.
    pub(super) async fn exec(
        self: Arc<Self>,
        spec: DynoSpec,
        inside: Inside,
    ) -> Result<NativeExec, StartError> {
        let (started, output) = beside(false, move || self.try_exec(&spec, &inside)).await?;
        let attendant = FirstProcess::watch(started);
        let attendant =
            attendant.map_err(|source| StartError::System { operation: "watch the command", source })?;
        Ok(NativeExec { attendant, output })
    }

    fn try_exec(&self, spec: &DynoSpec, inside: &Inside) -> Result<(Started, Option<Output>), StartError> {
        let Wires { control, output, stdio, init: mut fds } = wires(&spec.stdio)?;
        let Inside { uid, cgroup, init } = inside;
        let request = Request::Attendant(self.process(spec, *uid, cgroup.as_deref(), stdio)?);
        fds.push(init.as_fd().try_clone_to_owned().map_err(step("hand on the init of the dyno"))?);
        if let Some(cgroup) = cgroup.as_ref().and_then(|cgroup| cgroup.unified_dir()) {
            fds.push(cgroup.try_clone_to_owned().map_err(step("open the cgroup"))?);
        }
        let (pid, pidfd, ()) = self.zygote.clone_process(&request, &fds, || ())?;
        // The attendant holds them now, and the end of the one is to mean the end of the other.
        drop(fds);
        let ready = cgroup.as_ref().map_or(Ok(()), |cgroup| attach(cgroup, pid));
        match begin(pidfd.as_fd(), control.as_fd(), ready) {
            Ok((_main, ())) => Ok((Started { dyno: spec.name.clone(), pid, pidfd, control }, output)),
            Err(Unstarted::Inside(failure)) => Err(failure.into()),
            Err(Unstarted::Outside(error)) => Err(error),
        }
    }
}

impl NativeExec {
    /// Waits for the attendant, of which the dyno's init is not gone before it has been reaped.
    async fn gone(&self) {
        self.attendant.gone().await;
        reap(self.attendant.dyno(), self.attendant.pidfd().as_fd());
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
