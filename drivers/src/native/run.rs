//! A run of a dyno of the native driver: its init, and what was made for it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::cgroup::{Cgroup, OomWatch};
use super::driver::beside;
use super::exec::Inside;
use super::first_process::{FirstProcess, Started, reap};
use super::holdings::Holdings;
use super::protocol::Order;
use super::start::Starter;
use crate::{
    BoxFuture, DynoSpec, Exec, KillSignal, MainExit, Notify, Output, Run, SignalError, StartError, sys,
};

/// A run of a dyno.
pub(super) struct NativeRun {
    init: FirstProcess,
    uid: u32,
    address: Ipv4Addr,
    main: Option<u32>,
    output: Mutex<Option<Output>>,
    notify: Mutex<Option<Notify>>,
    undo: tokio::sync::Mutex<Undoing>,
    starter: Arc<Starter>,
    cgroup: Option<Arc<Cgroup>>,
    /// Wakes when the dyno has used up its memory, where that has a limit.
    memory: Option<Memory>,
    out_of_memory: AtomicBool,
}

/// How far what was made for a run has been undone. It may take a while, and is done where that disturbs nobody.
enum Undoing {
    NotYet(Box<Holdings>),
    /// Tells whether the kernel has killed a process of the dyno for want of memory.
    Going(BoxFuture<'static, bool>),
    Done,
}

struct Memory {
    watch: OomWatch,
    wakes: AsyncFd<OwnedFd>,
    told: Mutex<Option<Instant>>,
}

/// How often it is told that a dyno has used up its memory: as often as Heroku does, which for one that lives at its
/// limit is often enough.
const TELL_EVERY: Duration = Duration::from_secs(20);

impl fmt::Debug for NativeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeRun")
            .field("dyno", &self.init.dyno())
            .field("init", &self.init.pid())
            .finish_non_exhaustive()
    }
}

/// A dyno that has been started, and what belongs to it.
pub(super) struct StartedDyno {
    pub(super) init: Started,
    pub(super) main: Option<u32>,
    pub(super) address: Ipv4Addr,
    pub(super) output: Option<Output>,
    pub(super) notify: Option<OwnedFd>,
    pub(super) holdings: Holdings,
}

impl NativeRun {
    /// Begins to watch an init.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub(super) fn new(starter: Arc<Starter>, started: StartedDyno) -> io::Result<Arc<Self>> {
        let StartedDyno { init, main, address, output, notify, holdings } = started;
        let (cgroup, uid) = (holdings.cgroup.clone(), holdings.identity.identity().uid);
        let init = match FirstProcess::watch(init) {
            Ok(init) => init,
            Err(error) => {
                starter.waiting.give_back(holdings);
                return Err(error);
            }
        };
        Ok(Arc::new(Self {
            memory: cgroup.as_ref().and_then(|cgroup| watch_memory(cgroup, init.dyno())),
            init,
            uid,
            address,
            main,
            output: Mutex::new(output),
            notify: Mutex::new(notify.map(|socket| Notify { socket, sender: Some(uid) })),
            undo: tokio::sync::Mutex::new(Undoing::NotYet(Box::new(holdings))),
            starter,
            cgroup,
            out_of_memory: AtomicBool::new(false),
        }))
    }

    fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for init to be gone, with every process below it, and undoes what was made for the run. Cancel safe.
    async fn over(&self) {
        self.init.gone().await;
        self.undone().await;
    }

    /// Undoes what was made for a run whose init is gone, or has no process below it and ends: what need not wait for
    /// that is undone while the kernel takes init down. Cancel safe: who calls it again waits for what was begun.
    async fn undone(&self) {
        let mut undo = self.undo.lock().await;
        *undo = match std::mem::replace(&mut *undo, Undoing::Done) {
            Undoing::NotYet(mut holdings) => {
                let (dyno, pidfd) = (self.init.dyno().to_owned(), Arc::clone(self.init.pidfd()));
                // Where the dyno is a one-off one there is nothing to do beside this, and no other will come.
                let starter = Arc::clone(&self.starter);
                let one_off = starter.settings.one_off;
                Undoing::Going(Box::pin(beside(one_off, move || {
                    if one_off {
                        starter.uplink.leave();
                    }
                    holdings.remove_files();
                    reap(&dyno, pidfd.get_ref().as_fd());
                    holdings.let_mounts_go();
                    // While the cgroup is there to tell.
                    let killed = holdings.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
                    starter.waiting.give_back(*holdings);
                    killed
                })))
            }
            begun @ (Undoing::Going(_) | Undoing::Done) => begun,
        };
        if let Undoing::Going(work) = &mut *undo {
            self.out_of_memory.store(work.await, Ordering::Relaxed);
            *undo = Undoing::Done;
        }
    }
}

/// Begins to watch the memory of a dyno, where that has a limit.
fn watch_memory(cgroup: &Cgroup, dyno: &str) -> Option<Memory> {
    let watched = cgroup.oom_watch().map_err(|error| crate::explain(&error)).and_then(|watch| {
        let Some(watch) = watch else { return Ok(None) };
        let wakes = watch.as_fd().try_clone_to_owned().and_then(sys::watch);
        wakes
            .map(|wakes| Some(Memory { watch, wakes, told: Mutex::default() }))
            .map_err(|error| error.to_string())
    });
    watched.unwrap_or_else(|error| {
        tracing::warn!("cannot watch the memory of {dyno}: {error}");
        None
    })
}

impl Run for NativeRun {
    fn pid(&self) -> Option<u32> {
        self.main
    }

    fn address(&self) -> IpAddr {
        self.address.into()
    }

    fn take_output(&self) -> Option<Output> {
        Self::locked(&self.output).take()
    }

    fn take_notify(&self) -> Option<Notify> {
        Self::locked(&self.notify).take()
    }

    fn exec<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Box<dyn Exec>, StartError>> {
        let starter = Arc::clone(&self.starter);
        let inside =
            Inside { uid: self.uid, cgroup: self.cgroup.clone(), init: Arc::clone(self.init.pidfd()) };
        Box::pin(async { Ok(Box::new(starter.exec(spec.clone(), inside).await?) as Box<dyn Exec>) })
    }

    fn signal(&self, signal: KillSignal) -> Result<(), SignalError> {
        let sent = match signal {
            KillSignal::Term => self.init.tell(Order::Terminate),
            KillSignal::Kill => self.init.kill(),
        };
        sent.map_err(|source| {
            let (pid, dyno) = (self.init.pid(), self.init.dyno().to_owned());
            SignalError { signal, pid, dyno, source }
        })
    }

    fn main_exit(&self) -> BoxFuture<'_, MainExit> {
        Box::pin(async {
            let ended = self.init.reported().await;
            if ended.alone {
                self.undone().await;
            }
            ended
        })
    }

    fn memory_full(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let Some(Memory { watch, wakes, told }) = &self.memory else {
                return std::future::pending().await;
            };
            let last = *Self::locked(told);
            if let Some(last) = last {
                sleep_until(last + TELL_EVERY).await;
            }
            let woken = async {
                wakes.readable().await?.clear_ready();
                watch.clear()
            };
            if let Err(error) = woken.await {
                tracing::debug!(dyno = self.init.dyno(), %error, "the memory of a dyno is not watched any more");
                std::future::pending().await
            }
            // The removal of the cgroup wakes as well.
            if self.cgroup.as_ref().and_then(|cgroup| cgroup.memory_events()).is_none() {
                std::future::pending().await
            }
            *Self::locked(told) = Some(Instant::now());
        })
    }

    fn out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Relaxed)
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.over())
    }
}
