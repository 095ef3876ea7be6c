//! A driver for tests: behind the real trait, it does what the test says and no more.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hsup_drivers::{
    BoxFuture, BuildError, BuildSpec, Built, DynoDriver, DynoSpec, Exec, Exit, KillSignal, MainExit, Network,
    Output, Run, SignalError, StartError,
};
use tokio::sync::{mpsc, watch};

/// One run of the scripted driver: the test ends it, and sees what it was sent.
#[derive(Debug)]
pub(crate) struct ScriptedRun {
    main: watch::Sender<Option<MainExit>>,
    pub(crate) gone: watch::Sender<bool>,
    signals: Mutex<Vec<KillSignal>>,
    out_of_memory: AtomicBool,
    /// To whom commands inside it are handed.
    runs: mpsc::UnboundedSender<(String, Arc<ScriptedRun>)>,
}

impl ScriptedRun {
    fn new(runs: mpsc::UnboundedSender<(String, Arc<Self>)>) -> Arc<Self> {
        Arc::new(Self {
            main: watch::Sender::new(None),
            gone: watch::Sender::new(false),
            signals: Mutex::default(),
            out_of_memory: AtomicBool::default(),
            runs,
        })
    }

    /// The kernel kills a process of it for want of memory; the main process goes on.
    pub(crate) fn starve(&self) {
        self.out_of_memory.store(true, Ordering::Relaxed);
    }

    /// Ends the main process.
    pub(crate) fn exit(&self, exit: Exit, alone: bool) {
        self.main.send_replace(Some(MainExit { exit, alone }));
        self.gone.send_replace(alone);
    }

    /// What it was sent.
    pub(crate) fn signals(&self) -> Vec<KillSignal> {
        self.signals.lock().unwrap().clone()
    }
}

impl Run for ScriptedRun {
    fn pid(&self) -> Option<u32> {
        Some(4242)
    }

    fn address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    fn take_output(&self) -> Option<Output> {
        None
    }

    fn exec<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Box<dyn Exec>, StartError>> {
        Box::pin(async move {
            if *spec.command == [UNSTARTABLE] {
                let source = io::Error::from(io::ErrorKind::OutOfMemory);
                return Err(StartError::System { operation: "start the process", source });
            }
            let run = Self::new(self.runs.clone());
            self.runs.send((spec.command.join(" "), Arc::clone(&run))).unwrap();
            Ok(Box::new(ScriptedExec(run)) as Box<dyn Exec>)
        })
    }

    fn signal(&self, signal: KillSignal) -> Result<(), SignalError> {
        self.signals.lock().unwrap().push(signal);
        if signal == KillSignal::Kill {
            let unless_ended = |main: &mut Option<MainExit>| {
                let first = main.is_none();
                main.get_or_insert(MainExit { exit: Exit::Signal(9), alone: true });
                first
            };
            self.main.send_if_modified(unless_ended);
            self.gone.send_replace(true);
        }
        Ok(())
    }

    fn out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Relaxed)
    }

    fn main_exit(&self) -> BoxFuture<'_, MainExit> {
        let mut main = self.main.subscribe();
        Box::pin(async move { main.wait_for(Option::is_some).await.unwrap().unwrap() })
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        let mut gone = self.gone.subscribe();
        Box::pin(async move {
            gone.wait_for(|gone| *gone).await.unwrap();
        })
    }
}

/// The command that cannot be started inside a run.
pub(crate) const UNSTARTABLE: &str = "unstartable";

/// A command inside a run: the test has the same as a run of its own.
struct ScriptedExec(Arc<ScriptedRun>);

impl Exec for ScriptedExec {
    fn take_output(&mut self) -> Option<Output> {
        None
    }

    fn exit(&mut self) -> BoxFuture<'_, MainExit> {
        self.0.main_exit()
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _always_said = self.0.signal(KillSignal::Kill);
            self.0.gone().await;
        })
    }
}

/// A driver that builds and starts as its scripts say (`true`: it does), then always, and hands each run to the
/// test.
pub(crate) struct Scripted {
    network: Network,
    builds: Mutex<VecDeque<bool>>,
    starts: Mutex<VecDeque<bool>>,
    runs: mpsc::UnboundedSender<(String, Arc<ScriptedRun>)>,
}

/// The runs of a scripted driver, each with the name of its dyno, and commands inside them, each with its line.
pub(crate) type Runs = mpsc::UnboundedReceiver<(String, Arc<ScriptedRun>)>;

impl Scripted {
    pub(crate) fn new(network: Network, builds: &[bool], starts: &[bool]) -> (Arc<Self>, Runs) {
        let (sender, runs) = mpsc::unbounded_channel();
        let script = |script: &[bool]| Mutex::new(script.iter().copied().collect());
        (Arc::new(Self { network, builds: script(builds), starts: script(starts), runs: sender }), runs)
    }
}

impl DynoDriver for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn network(&self) -> Network {
        self.network
    }

    fn needs_slug(&self) -> bool {
        false
    }

    fn build<'a>(&'a self, _: &'a BuildSpec) -> BoxFuture<'a, Result<Built, BuildError>> {
        Box::pin(async {
            let built = self.builds.lock().unwrap().pop_front().unwrap_or(true);
            if built { Ok(Built::default()) } else { Err(BuildError::NoSlug { driver: "scripted" }) }
        })
    }

    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        Box::pin(async move {
            if !self.starts.lock().unwrap().pop_front().unwrap_or(true) {
                let source = io::Error::from(io::ErrorKind::OutOfMemory);
                return Err(StartError::System { operation: "start the process", source });
            }
            let run = ScriptedRun::new(self.runs.clone());
            self.runs.send((spec.name.clone(), Arc::clone(&run))).unwrap();
            Ok(run as Arc<dyn Run>)
        })
    }
}
