//! What hsup does on signals, and when there is nobody left to tell of them.

use std::future::pending;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsup_drivers::guardian::{self, Guardian};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use crate::diagnostics::Ring;
use crate::formation::Shutdown;
use crate::sources::Reread;
use crate::stderr::Stderr;

/// What SIGUSR1 shows, and where.
pub(super) struct Diagnostics {
    pub(super) ring: Arc<Ring>,
    pub(super) stderr: Stderr,
}

impl Diagnostics {
    fn dump(&mut self) {
        let mut text = Vec::new();
        let dumped = self.ring.dump(&mut text).and_then(|()| self.stderr.write_all(&text));
        if let Err(error) = dumped {
            tracing::warn!(%error, "cannot write the diagnostic ring");
        }
    }
}

/// What hsup does on signals, and when there is nobody left to tell of them.
pub(super) struct Obedience {
    pub(super) signals: guardian::Listener,
    pub(super) guardian: Arc<Guardian>,
    pub(super) diagnostics: Diagnostics,
    /// Whether a hang-up ends hsup, as that of its terminal does.
    pub(super) at_terminal: bool,
}

/// One that ends hsup and follows another as quickly as this is no second one: `timeout` signals hsup and then its whole
/// process group. Nobody asks twice as fast.
const ECHO: Duration = Duration::from_millis(50);

/// The type of what never happens.
pub(super) enum Never {}

impl Obedience {
    pub(super) async fn obey(&mut self, shutdown: &watch::Sender<Shutdown>, reread: &Reread) -> Never {
        let mut asked: Option<Instant> = None;
        loop {
            match self.signals.next().await {
                Ok(Some(Signal::SIGTERM | Signal::SIGINT)) => {
                    if asked.is_none_or(|at| at.elapsed() >= ECHO) {
                        escalate(shutdown);
                    }
                    asked.get_or_insert_with(Instant::now);
                }
                Ok(Some(Signal::SIGQUIT)) => drop(shutdown.send_replace(Shutdown::Now)),
                // A terminal that has hung up is no terminal any more.
                Ok(Some(Signal::SIGHUP)) if self.at_terminal && !io::stdin().is_terminal() => {
                    escalate(shutdown)
                }
                Ok(Some(Signal::SIGHUP)) => drop(reread.ask()),
                Ok(Some(Signal::SIGUSR1)) => self.diagnostics.dump(),
                Ok(Some(_)) => {}
                Ok(None) => return self.mourn(shutdown).await,
                Err(error) => {
                    tracing::error!(%error, "cannot hear of signals");
                    return self.mourn(shutdown).await;
                }
            }
        }
    }

    /// Without its guardian hsup can no longer promise that dynos die with it: they die now.
    async fn mourn(&self, shutdown: &watch::Sender<Shutdown>) -> Never {
        tracing::error!("the guardian process was killed; killing every dyno");
        if let Err(error) = self.guardian.lost() {
            tracing::error!(%error, "cannot adopt the daemons of dynos");
        }
        shutdown.send_replace(Shutdown::Now);
        pending().await
    }
}

/// The first signal ends everything in good order, the second one at once.
fn escalate(shutdown: &watch::Sender<Shutdown>) {
    shutdown.send_modify(|now| {
        *now = match *now {
            Shutdown::No => Shutdown::Graceful,
            Shutdown::Graceful | Shutdown::Now => Shutdown::Now,
        };
    });
}
