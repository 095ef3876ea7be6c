//! The life of a container, from its start until it is removed: what it prints and reads is carried, signals are sent,
//! and its end is waited for, however often the engine goes away meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{KillContainerOptionsBuilder, WaitContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::engine::Engine;
use super::entry::END_NOW;
use super::error::DockerError;
use super::frames::Frame;
use super::leftovers::{LOOK_AGAIN, REMOVAL, remove_in_time};
use super::start::{Prints, Reads};
use super::stdio::{Printed, Sinks};
use crate::{Exit, KillSignal, sys};

/// How long the last of what a dyno has printed may take once its container has ended.
const LAST_LINES: Duration = Duration::from_secs(10);
/// How long the entry of a container that is to be killed may take to end by itself.
const ENTRY_ENDS: Duration = Duration::from_secs(1);
/// How long a dyno that was to be killed is waited for while the engine is away, or before it is asked whether it is:
/// its container goes with the next start of hsup.
const GIVE_UP: Duration = Duration::from_secs(5);
/// How long the engine may take to tell what has become of a container. It knows; only a busy host makes it late.
const TELLS: Duration = Duration::from_secs(10);

/// A container whose dyno runs.
pub(super) struct Begun {
    pub(super) engine: Arc<Engine>,
    pub(super) id: String,
    pub(super) dyno: String,
    pub(super) prints: Prints,
    pub(super) reads: Reads,
    pub(super) printed: Vec<(Printed, Bytes)>,
    pub(super) sinks: Sinks,
    pub(super) input: Option<mpsc::Receiver<Frame>>,
    pub(super) follows_window: bool,
}

/// How a container has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) out_of_memory: bool,
}

/// Lives it in a task of its own. Signals go in; the end comes out, when nothing is left of it.
pub(super) fn spawn(begun: Begun) -> (mpsc::UnboundedSender<KillSignal>, watch::Receiver<Option<Ended>>) {
    let (signals, asked) = mpsc::unbounded_channel();
    let (told, ended) = watch::channel(None);
    tokio::spawn(async move {
        let Begun { engine, id, dyno, prints, reads, printed, sinks, input, follows_window } = begun;
        let (unread, nobody_reads) = oneshot::channel();
        let output = tokio::spawn(carry_output(prints, printed, sinks, unread));
        let input = tokio::spawn(carry_input(reads, input, follows_window));
        let life = Life { engine, id, dyno, asked, nobody_reads: Some(nobody_reads), kill_asked: None };
        let ended = life.live(output).await;
        // Not before: it holds the container's input open.
        input.abort();
        told.send_replace(Some(ended));
    });
    (signals, ended)
}

struct Life {
    engine: Arc<Engine>,
    id: String,
    dyno: String,
    asked: mpsc::UnboundedReceiver<KillSignal>,
    /// Told when what the dyno prints is read by nobody any more.
    nobody_reads: Option<oneshot::Receiver<()>>,
    /// Since when the dyno was to be killed.
    kill_asked: Option<Instant>,
}

impl Life {
    async fn live(mut self, mut output: JoinHandle<()>) -> Ended {
        let end = self.end().await;
        if timeout(LAST_LINES, &mut output).await.is_err() {
            tracing::warn!("{}: the Docker Engine keeps the last of the output back", self.dyno);
            output.abort();
        }
        // What nobody can tell any more was killed, by whom ever.
        let killed = Ended { exit: Exit::Signal(libc::SIGKILL), out_of_memory: false };
        match end {
            End::Exited(exit) => {
                // While there is a container to tell it.
                let out_of_memory = self.was_out_of_memory().await;
                let _goes_on = timeout(REMOVAL, remove_in_time(&self.engine, &self.id)).await;
                Ended { exit, out_of_memory }
            }
            End::Gone => killed,
            End::Unreachable => {
                drop(remove_in_time(&self.engine, &self.id));
                killed
            }
        }
    }

    /// Waits for the end of the container.
    async fn end(&mut self) -> End {
        loop {
            if let Some(exit) = self.wait().await {
                return End::Exited(exit);
            }
            // The engine went away, maybe without a word. Its answer may be lost, and with it what carries input and
            // output.
            loop {
                match self.look().await {
                    Ok(Looked::Gone) => return End::Gone,
                    Ok(Looked::Ended(exit)) => return End::Exited(exit),
                    Ok(Looked::Running) => {
                        self.send(KillSignal::Kill);
                        break;
                    }
                    Err(_told_already) if self.kill_asked.is_some_and(|at| at.elapsed() >= GIVE_UP) => {
                        tracing::error!(
                            "{}: its container {} cannot be killed while the Docker Engine is away; the next start \
                             of hsup removes it",
                            self.dyno,
                            self.id
                        );
                        return End::Unreachable;
                    }
                    Err(_told_already) => tokio::select! {
                        () = sleep(LOOK_AGAIN) => {}
                        signal = self.asked.recv() => self.obey(signal).await,
                    },
                }
            }
        }
    }

    /// Waits for as long as the engine does; none if its answer is lost, or does not follow a kill.
    async fn wait(&mut self) -> Option<Exit> {
        let since = Instant::now();
        let engine = Arc::clone(&self.engine);
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut answers = std::pin::pin!(engine.docker().wait_container(&self.id, Some(options)));
        loop {
            tokio::select! {
                answer = answers.next() => return match answer? {
                    Ok(answer) => Some(exit_of(answer.status_code)),
                    Err(Error::DockerContainerWaitError { code, error: _ }) => Some(exit_of(code)),
                    Err(error) => {
                        let _told = engine.failed(format!("wait for the container of {}", self.dyno), error);
                        None
                    }
                },
                signal = self.asked.recv() => self.obey(signal).await,
                () = told(&mut self.nobody_reads) => self.tell(Signal::SIGPIPE),
                () = until(self.kill_asked.map(|at| at.max(since) + GIVE_UP)) => return None,
            }
        }
    }

    /// Does what the dyno's owner asks for. When that is gone there is nobody to ask any more.
    async fn obey(&mut self, signal: Option<KillSignal>) {
        match signal {
            Some(signal) => self.send(signal),
            None => std::future::pending().await,
        }
    }

    /// Signals every process of the dyno: the entry hands on SIGTERM to all, and none outlives the entry.
    fn send(&mut self, signal: KillSignal) {
        match signal {
            KillSignal::Term => self.tell(Signal::SIGTERM),
            KillSignal::Kill => {
                self.kill_asked.get_or_insert_with(Instant::now);
                let told = self.signal(END_NOW);
                let killed = self.signal(Signal::SIGKILL);
                tokio::spawn(async move {
                    told.await;
                    sleep(ENTRY_ENDS).await;
                    killed.await;
                });
            }
        }
    }

    /// Signals the entry, beside the wait for its end, whose answer must not wait for this one.
    fn tell(&self, signal: Signal) {
        tokio::spawn(self.signal(signal));
    }

    fn signal(&self, signal: Signal) -> impl Future<Output = ()> + Send + use<> {
        let (engine, id) = (Arc::clone(&self.engine), self.id.clone());
        let what = format!("send {signal} to the container of {}", self.dyno);
        async move {
            let options = KillContainerOptionsBuilder::default().signal(signal.as_str()).build();
            match engine.ask(what, engine.docker().kill_container(&id, Some(options))).await {
                Ok(()) => {}
                // It is over; or that the engine is away has been told.
                Err(error) if matches!(error.status(), Some(404 | 409)) || error.is_of_the_engine() => {}
                Err(error) => tracing::warn!("{}", crate::explain(&error)),
            }
        }
    }

    async fn look(&self) -> Result<Looked, DockerError> {
        let what = format!("look at the container of {}", self.dyno);
        let answer = async {
            let answer = timeout(TELLS, self.engine.docker().inspect_container(&self.id, None)).await;
            answer.unwrap_or(Err(Error::RequestTimeoutError))
        };
        let looked = self.engine.ask(what, answer).await;
        match looked.map(|looked| looked.state.unwrap_or_default()) {
            Ok(state) if state.running == Some(true) => Ok(Looked::Running),
            Ok(state) => Ok(Looked::Ended(exit_of(state.exit_code.unwrap_or(-1)))),
            Err(error) if error.status() == Some(404) => Ok(Looked::Gone),
            Err(error) => Err(error),
        }
    }

    async fn was_out_of_memory(&self) -> bool {
        let what = format!("look at the container of {}", self.dyno);
        let looked = self.engine.ask(what, self.engine.docker().inspect_container(&self.id, None)).await;
        looked.is_ok_and(|looked| looked.state.and_then(|state| state.oom_killed).unwrap_or(false))
    }
}

/// How the wait for a container's end has ended.
enum End {
    Exited(Exit),
    /// Somebody else has removed it.
    Gone,
    /// It was to be killed, and there is no engine to do it.
    Unreachable,
}

/// What has become of a container.
enum Looked {
    Running,
    Ended(Exit),
    Gone,
}

/// The exit that a status stands for. One that an engine which was restarted has lost is that of a killed process.
pub(super) fn exit_of(status: i64) -> Exit {
    match u8::try_from(status) {
        Ok(code) => match i32::from(code) - 128 {
            number if Signal::try_from(number).is_ok() => Exit::Signal(number),
            _ => Exit::Code(code),
        },
        Err(_) => Exit::Signal(libc::SIGKILL),
    }
}

/// Waits until then, if there is such a time.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// Waits until that is told, once.
async fn told(what: &mut Option<oneshot::Receiver<()>>) {
    let is_told = match what {
        Some(receiver) => receiver.await.is_ok(),
        None => false,
    };
    *what = None;
    if !is_told {
        std::future::pending().await
    }
}

/// Hands on what the container prints, to its end. Tells when nobody reads it any more.
pub(super) async fn carry_output(
    mut prints: Prints,
    printed: Vec<(Printed, Bytes)>,
    mut sinks: Sinks,
    unread: oneshot::Sender<()>,
) {
    let mut unread = Some(unread);
    let mut printed = printed.into_iter();
    loop {
        let (printed, piece) = match printed.next() {
            Some(first) => first,
            None => match prints.next().await {
                Some(Ok(LogOutput::StdOut { message })) => (Printed::Stdout, message),
                Some(Ok(LogOutput::StdErr { message })) => (Printed::Stderr, message),
                Some(Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. })) => continue,
                Some(Err(_)) | None => return,
            },
        };
        if sinks.write(printed, piece).await.is_err()
            && let Some(unread) = unread.take()
        {
            let _it_has_ended = unread.send(());
        }
    }
}

/// Hands on what the dyno is to read, and holds its input open: its end would be the end of the container.
async fn carry_input(mut reads: Reads, mut input: Option<mpsc::Receiver<Frame>>, follows_window: bool) {
    let mut changes = follows_window.then(|| signal(SignalKind::window_change()).ok()).flatten();
    loop {
        let frame = tokio::select! {
            Some(frame) = async { input.as_mut()?.recv().await } => frame,
            Some(frame) = async {
                changes.as_mut()?.recv().await?;
                window()
            } => frame,
            else => break,
        };
        let sent = async {
            reads.write_all(&frame.encode()).await?;
            reads.flush().await
        };
        if sent.await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// The size of the terminal at which hsup is used.
fn window() -> Option<Frame> {
    let size = sys::window_size(std::os::fd::AsFd::as_fd(&std::io::stdin())).ok()?;
    Some(Frame::Window([size.ws_row, size.ws_col]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        for (status, exit) in [
            (0, Exit::Code(0)),
            (3, Exit::Code(3)),
            (128, Exit::Code(128)),
            (137, Exit::Signal(9)),
            (143, Exit::Signal(15)),
            (255, Exit::Code(255)),
            (-1, Exit::Signal(9)),
        ] {
            assert_eq!(exit_of(status), exit);
        }
    }
}
