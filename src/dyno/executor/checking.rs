//! The checks of a dyno: which one belongs to the phase that it is in, where its answers come from, and what follows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hsup_drivers::{BoxFuture, DynoSpec, Network, Run};
use tracing::Level;

use super::super::command_probe::CommandProbes;
use super::super::fsm::{Input, Phase, Started};
use super::super::notify_socket::NotifySocket;
use super::super::prober::{Prober, is_taken};
use super::super::signs::Signs;
use super::super::status::{Health, Why};
use super::Executor;
use crate::logs::Awaited;
use crate::model::{Check, LIVENESS_PERIOD, Probe};

/// What a check has found.
pub(super) enum Verdict {
    Ready,
    Unwell(String),
}

impl Executor {
    /// Begins the check that belongs to the phase of the dyno.
    pub(super) fn check(&mut self) {
        self.checking = None;
        let (Some(run), Phase::Started(started)) = (&self.run, self.state.phase) else { return };
        let check = match started {
            Started::Booting => &self.readiness,
            Started::Up => &self.liveness,
            Started::Starting | Started::Ending(_) | Started::Killing(_) => return,
        };
        let Some(check) = check.clone() else { return };
        let published = || {
            let address = match self.driver.network() {
                // wherever else a dyno listens, one that shares the network of its checker is reached there
                Network::Host => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Network::Isolated => run.address(),
            };
            SocketAddr::new(address, run.port().unwrap_or(self.spec.port))
        };
        let prober = Prober {
            address: run.asked_at().unwrap_or_else(published),
            commands: CommandProbes {
                run: Arc::clone(run),
                spec: Arc::clone(&self.spec),
                tasks: self.commands.clone(),
            },
            signs: self.signs.clone(),
            taken: AtomicBool::new(started == Started::Booting && self.port_taken),
        };
        self.checking = Some(if started == Started::Booting {
            let publish = self.publish.clone();
            Box::pin(async move {
                let tell = |finding: &String| {
                    let missing = Some(finding.clone());
                    publish.send_modify(|status| Arc::make_mut(status).health = Health::Booting { missing });
                };
                prober.until_ready(check, tell).await;
                Verdict::Ready
            })
        } else {
            Box::pin(async move { Verdict::Unwell(prober.until_unwell(check).await) })
        });
    }

    /// Looks before a run whether its port is another process's already: what answers there would say nothing of it.
    pub(super) fn look_at_port(&mut self) {
        let by_port = |check: &Check| matches!(check.probe, Probe::Port | Probe::Http(_));
        let shares_ports = self.driver.network() == Network::Host;
        self.port_taken =
            shares_ports && self.readiness.as_ref().is_some_and(by_port) && is_taken(self.spec.port);
        if self.port_taken {
            let port = self.spec.port;
            self.say(
                Level::WARN,
                &format!(
                    "Another process of this host listens on port {port}: end it, or give the app another PORT"
                ),
            );
        }
    }

    pub(super) fn judge(&mut self, verdict: Verdict) -> Input {
        self.checking = None;
        match verdict {
            Verdict::Ready => Input::Ready(self.state.run),
            Verdict::Unwell(finding) => {
                self.say(Level::ERROR, &format!("Not well: {finding}; restarting"));
                self.doom.get_or_insert(Why::Unwell { finding });
                Input::Unhealthy(self.state.run)
            }
        }
    }
}

/// Has the runs of a dyno told to say by sd_notify how they are, where that is asked for.
pub(super) fn ask_to_notify(spec: &mut DynoSpec, [readiness, liveness]: [&Option<Check>; 2]) {
    let by_notify = |check: &&Check| check.probe == Probe::Notify;
    let watchdog = liveness.as_ref().filter(by_notify);
    spec.notify = watchdog.is_some() || readiness.as_ref().is_some_and(|check| by_notify(&check));
    if let Some(check) = watchdog {
        let period = check.period.unwrap_or(LIVENESS_PERIOD).as_micros();
        spec.own_env.push(("WATCHDOG_USEC".to_owned(), period.to_string()));
    }
}

/// What hears a run that is to say by sd_notify how it is.
pub(super) fn notify_socket(run: &dyn Run, dyno: &str) -> Option<NotifySocket> {
    let listening = run.take_notify().map(NotifySocket::new).transpose();
    listening.unwrap_or_else(|error| {
        tracing::error!(%error, "{dyno}: cannot hear its sd_notify");
        None
    })
}

/// The line that a run is ready with, to be looked for in what it prints.
pub(super) fn awaited_line(readiness: Option<&Check>, signs: &Signs) -> Option<Awaited> {
    match &readiness?.probe {
        Probe::Log(text) => {
            let signs = signs.clone();
            Some(Awaited::new(text, move || signs.note_printed()))
        }
        Probe::Port | Probe::Http(_) | Probe::Command(_) | Probe::Notify => None,
    }
}

/// Hears what a dyno says of itself; never ready.
pub(super) async fn hear(notify: Option<&NotifySocket>, signs: &Signs) {
    match notify {
        Some(socket) => socket.hear(signs).await,
        None => std::future::pending().await,
    }
}

/// What the check finds; never, while there is none.
pub(super) async fn next_verdict(checking: &mut Option<BoxFuture<'static, Verdict>>) -> Verdict {
    match checking {
        Some(checking) => checking.await,
        None => std::future::pending().await,
    }
}
