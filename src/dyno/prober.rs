//! The prober: asks a dyno whether it is ready, and later whether it is still well. It only asks; what follows
//! from the answers is the state machine's.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt::{Ipv6V6Only, ReuseAddr},
};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::command_probe::CommandProbes;
use super::signs::Signs;
use crate::explain;
use crate::model::{Check, LIVENESS_PERIOD, Probe};

/// The first wait of a dyno that boots and is asked without a period of its own. Many are ready within it.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Each further wait is this many times as long.
const GROWTH: u32 = 3;
/// The longest one: a dyno that takes minutes to boot is not in a hurry, and hundreds of them leave the host idle.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long the start of a command may take, which is not the time that the dyno is given for its answer: drivers give up
/// sooner by themselves.
const STARTING: Duration = Duration::from_secs(6);
/// How long the end of a command that is late may take.
const ENDING: Duration = Duration::from_secs(1);

/// A run of a dyno, as far as it can be asked.
pub(super) struct Prober {
    /// Where its port is reached from this host.
    pub(super) address: SocketAddr,
    /// What runs the command of a check.
    pub(super) commands: CommandProbes,
    /// What the run has said by itself.
    pub(super) signs: Signs,
    /// Whether somebody else listened on its port when it was started, and has been heard there ever since.
    pub(super) taken: AtomicBool,
}

/// What is wrong.
type Finding = String;

/// Why a try has failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The run is not well.
    Unwell(Finding),
    /// It could not be asked, which says nothing of it.
    Unasked(Finding),
}

impl Prober {
    /// Asks until the run is ready. What the last try found is told to `tell`, when it changes.
    pub(super) async fn until_ready(self, check: Check, tell: impl Fn(&Finding)) {
        match check.probe {
            Probe::Notify => return self.signs.ready().await,
            Probe::Log(_) => return self.signs.printed().await,
            Probe::Port | Probe::Http(_) | Probe::Command(_) => {}
        }
        sleep(check.initial_delay).await;
        let (mut wait, mut successes, mut last) = (FIRST_WAIT, 0, None);
        loop {
            match self.ask(&check).await {
                Ok(()) => successes += 1,
                Err(Failed::Unwell(finding) | Failed::Unasked(finding)) => {
                    successes = 0;
                    if last.as_ref() != Some(&finding) {
                        tell(&finding);
                        last = Some(finding);
                    }
                }
            }
            if successes >= check.success_threshold {
                return;
            }
            match check.period {
                Some(period) => sleep(period).await,
                None => {
                    sleep_until(aligned(Instant::now() + wait, wait)).await;
                    wait = (wait * GROWTH).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Asks until the run is unwell, and says what is wrong.
    pub(super) async fn until_unwell(self, check: Check) -> Finding {
        let period = check.period.unwrap_or(LIVENESS_PERIOD);
        sleep(check.initial_delay).await;
        let (mut failures, mut unasked) = (0, 0);
        loop {
            let result = match check.probe {
                Probe::Notify => self.heard_from(period).await,
                Probe::Log(_) => return std::future::pending().await,
                // a process each, all at once, would be a burst of load
                Probe::Command(_) => {
                    sleep(period).await;
                    self.ask(&check).await
                }
                Probe::Port | Probe::Http(_) => {
                    sleep_until(aligned(Instant::now() + period, period)).await;
                    self.ask(&check).await
                }
            };
            match result {
                Ok(()) => (failures, unasked) = (0, 0),
                // An engine that is slow, or a limit of hsup's own, would end every dyno of the host.
                Err(Failed::Unasked(why)) => {
                    unasked += 1;
                    // once it may be the end of the run, which is about to be told
                    if unasked == 2 {
                        let dyno = &self.commands.spec.name;
                        tracing::warn!("{dyno}: whether it is well cannot be asked: {why}; asking again");
                    }
                }
                Err(Failed::Unwell(finding)) => {
                    failures += 1;
                    if failures >= check.failure_threshold {
                        return finding;
                    }
                }
            }
        }
    }

    async fn heard_from(&self, period: Duration) -> Result<(), Failed> {
        let heard = timeout(period, self.signs.alive()).await;
        heard.map_err(|_| Failed::Unwell(format!("it has not sent WATCHDOG=1 for {period:?}")))
    }

    /// One try. What it takes is there for as long as it lasts only: hundreds of dynos may be waited for, or asked at
    /// the same moment.
    async fn ask(&self, check: &Check) -> Result<(), Failed> {
        Box::pin(self.try_once(check)).await
    }

    async fn try_once(&self, check: &Check) -> Result<(), Failed> {
        let asked = async {
            match &check.probe {
                Probe::Http(path) => Box::pin(self.get(path)).await,
                Probe::Command(command) => Box::pin(self.commands.ask(command, check.timeout)).await,
                Probe::Port | Probe::Log(_) | Probe::Notify => self.connect().await.map(drop),
            }
        };
        let patience = match check.probe {
            // it has to be started, and is ended when it is late
            Probe::Command(_) => STARTING + check.timeout + ENDING,
            Probe::Port | Probe::Http(_) | Probe::Log(_) | Probe::Notify => check.timeout,
        };
        match timeout(patience, asked).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Unwell(format!("no answer within {:?}", check.timeout))),
        }
    }

    async fn connect(&self) -> Result<TcpStream, Failed> {
        let port = self.address.port();
        let connected = match TcpStream::connect(self.address).await {
            // what listens on this host's IPv6 address only is heard there
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && self.address.ip().is_loopback() => {
                let six = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
                TcpStream::connect(six).await.map_err(|_| error)
            }
            connected => connected,
        };
        if connected.is_err() {
            self.taken.store(false, Ordering::Relaxed);
        } else if self.taken.load(Ordering::Relaxed) {
            return Err(Failed::Unwell(format!("another process of this host listens on port {port}")));
        }
        connected.map_err(|error| {
            if error.kind() == ErrorKind::ConnectionRefused {
                Failed::Unwell(format!("nothing listens on port {port}"))
            } else if is_want(&error) {
                Failed::Unasked(format!("cannot ask at port {port}: {error}"))
            } else {
                Failed::Unwell(format!("cannot connect to port {port}: {error}"))
            }
        })
    }

    async fn get(&self, path: &str) -> Result<(), Failed> {
        let stream = self.connect().await?;
        self.get_over(stream, path).await.map_err(Failed::Unwell)
    }

    async fn get_over(&self, stream: TcpStream, path: &str) -> Result<(), Finding> {
        // what is asked for may hold a secret
        let shown = path.split('?').next().unwrap_or_default();
        let broken = |error: hyper::Error| format!("GET {shown}: {}", explain(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::get(path)
            .header(HOST, self.address.to_string())
            .header(USER_AGENT, "hsup")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("GET {shown}: {error}"))?;
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        // a connection that is closed behind the answer ends with it
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ended = connection => answer.await,
        };
        let answer = answer.map_err(broken)?;
        let status = answer.status();
        let good = StatusCode::OK..StatusCode::BAD_REQUEST;
        if good.contains(&status) { Ok(()) } else { Err(format!("GET {shown} was answered with {status}")) }
    }
}

/// Whether somebody listens on a port of this host. To be asked before a dyno that is to listen there is started: later
/// one cannot be told from the other.
pub(super) fn is_taken(port: u16) -> bool {
    let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    all.into_iter().any(|all| try_to_bind(SocketAddr::new(all, port)) == Err(Errno::EADDRINUSE))
}

fn try_to_bind(address: SocketAddr) -> nix::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // with it only a socket that listens is in the way
    setsockopt(&socket, ReuseAddr, &true)?;
    if address.is_ipv6() {
        // one of IPv4 is no concern of it
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// Whether this is what hsup, or the host, has too little of, whatever the dyno does.
fn is_want(error: &io::Error) -> bool {
    let wants = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|number| wants.contains(&Errno::from_raw(number)))
}

/// The last multiple of a period before a moment, so that hundreds of dynos are asked in one go and the host sleeps
/// in between.
fn aligned(at: Instant, period: Duration) -> Instant {
    use std::sync::OnceLock;
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let since = at.saturating_duration_since(*EPOCH.get_or_init(Instant::now));
    let over = since.as_nanos() % period.as_nanos().max(1);
    at - Duration::from_nanos(u64::try_from(over).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_by_whoever_listens_on_one_address_of_either_kind() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                assert!(address.starts_with('['), "a host may have no IPv6, and has {address}");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(is_taken(port), "{address}");
            drop(listener);
            assert!(!is_taken(port), "{address}");
        }
    }

    #[test]
    fn what_hsup_has_too_little_of_says_nothing_of_a_dyno() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
        assert!([Errno::EMFILE, Errno::EADDRNOTAVAIL].map(of).iter().all(is_want));
        assert!(![Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::ETIMEDOUT].map(of).iter().any(is_want));
        assert!(!is_want(&io::ErrorKind::UnexpectedEof.into()));
    }
}
