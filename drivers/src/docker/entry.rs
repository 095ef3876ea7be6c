//! The first process of a container: it starts the dyno's main process, and stays to reap, to hand on signals and
//! input, and to end everything when hsup is gone or the main process has ended. When it ends itself, however that
//! comes, the kernel kills everything else in the container.
//!
//! The engine starts it inside a container that runs as well, to be the first process of a command there: it is the child
//! subreaper of the command's processes, and ends with them alone.
//!
//! It is hsup's own binary, under another name, and runs as the dyno's user with no capabilities. It has one thread.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::frames::{Frame, Start};
use super::main_process::{Connected, start_main};
use crate::{Exit, below, sys};

/// What the binary is called in an image, by which it knows that it is to be the entry.
pub const NAME: &str = "hsup-entry";

/// What it is told, as its one argument, when it is to start a command inside a container that runs.
pub(super) const INSIDE: &str = "inside";

/// What it exits with when hsup has gone before it has said anything, or says nonsense.
const ABANDONED: u8 = KILLED;

/// How much of the dyno's input is held while the dyno does not read it.
const MAX_PENDING_BYTES: usize = 64 * 1024;

/// More than a terminal holds of what was printed there and not yet shown.
const MAX_UNSHOWN_BYTES: usize = 64 * 1024;

/// What is handed on to the dyno. SIGPIPE comes when nobody reads what it prints any more: the engine, which reads
/// it in any case, would not tell it.
const HANDED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
];

/// What hsup sends for the dyno to be killed. SIGKILL would kill the entry, and nobody could tell how a main process
/// that had ended by then has ended.
pub(super) const END_NOW: Signal = Signal::SIGPWR;

/// The exit status of a dyno that was killed.
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// Whether a program that was called so is to be the entry.
pub fn is_called(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// Where it is in an image.
pub(super) fn path() -> String {
    format!("/.hsup/{NAME}")
}

/// Which processes are the entry's to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// All of the container: it is the first one there.
    First,
    /// Those below it.
    Inside,
}

/// The whole life of the entry; gives the exit status of the dyno, or of the command.
pub fn run() -> ExitCode {
    let place = if env::args().nth(1).as_deref() == Some(INSIDE) { Place::Inside } else { Place::First };
    match live(place) {
        Ok(status) => status.into(),
        Err(error) => {
            let _nobody_listens = writeln!(io::stderr(), "{NAME}: {error}");
            ABANDONED.into()
        }
    }
}

fn live(place: Place) -> io::Result<u8> {
    prctl::set_name(c"hsup-entry")?;
    if place == Place::Inside {
        prctl::set_child_subreaper(true)?;
    }
    // The dyno is of the same user, and what hsup says to the entry is not for it.
    prctl::set_dumpable(false)?;
    sys::seal_inherited_descriptors()?;
    let mut watched: SigSet = HANDED_ON.into_iter().collect();
    watched.add(Signal::SIGCHLD);
    watched.add(END_NOW);
    watched.thread_block()?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut entry = Entry { place, signals, received: Vec::new(), dyno: None };
    let status = loop {
        match entry.step() {
            Ok(None) => {}
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(error),
        }
    };
    if place == Place::Inside {
        below::end_all()?;
    }
    status
}

struct Entry {
    place: Place,
    signals: SignalFd,
    received: Vec<u8>,
    dyno: Option<Dyno>,
}

/// The dyno, once it has been forked.
struct Dyno {
    place: Place,
    main: Pid,
    /// Whether all have been told to end.
    told: bool,
    /// How the main process ended, and when what is left of the dyno is killed.
    ended: Option<(u8, Instant)>,
    grace: Duration,
    /// What the dyno reads from, and what is to go there.
    sink: Option<OwnedFd>,
    pending: Vec<u8>,
    no_more: bool,
    /// The entry's end of its terminal.
    terminal: Option<OwnedFd>,
}

impl Entry {
    /// Waits for something to happen, and does what follows from it. Gives the exit status at the end.
    fn step(&mut self) -> io::Result<Option<u8>> {
        let (input, signalled, printed, writable) = self.wait()?;
        if signalled && let Some(status) = self.hear_signals()? {
            return Ok(Some(status));
        }
        if let Some(dyno) = &mut self.dyno {
            if printed {
                dyno.show(&mut io::stdout())?;
            }
            if writable {
                dyno.feed()?;
            }
            if let Some(status) = dyno.over()? {
                return Ok(Some(status));
            }
        }
        match input {
            Input::Nothing => Ok(None),
            Input::Readable => self.hear_hsup(),
            Input::Ended => Ok(Some(ABANDONED)),
        }
    }

    /// What there is: something from hsup, signals, something that the dyno has printed, room for its input.
    fn wait(&self) -> io::Result<(Input, bool, bool, bool)> {
        let stdin = io::stdin();
        let dyno = self.dyno.as_ref();
        let full = dyno.is_some_and(|dyno| dyno.pending.len() >= MAX_PENDING_BYTES);
        // That there is nobody at the other end is told in any case.
        let wanted = if full { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds =
            vec![PollFd::new(stdin.as_fd(), wanted), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let terminal = dyno.and_then(|dyno| dyno.terminal.as_ref());
        fds.extend(terminal.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let sink = dyno.filter(|dyno| !dyno.pending.is_empty()).and_then(|dyno| dyno.sink.as_ref());
        fds.extend(sink.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        let deadline = dyno.and_then(|dyno| dyno.ended).map(|(_, at)| at);
        let timeout = deadline.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut told = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut next = || told.next().unwrap_or(PollFlags::empty());
        let (from_hsup, signalled) = (next(), next());
        let printed = terminal.is_some() && !next().is_empty();
        let writable = sink.is_some() && !next().is_empty();
        let input = if from_hsup.contains(PollFlags::POLLIN) {
            Input::Readable
        } else if from_hsup.is_empty() {
            Input::Nothing
        } else {
            Input::Ended
        };
        Ok((input, !signalled.is_empty(), printed, writable))
    }

    fn hear_signals(&mut self) -> io::Result<Option<u8>> {
        while let Some(told) = self.signals.read_signal()? {
            let number = i32::try_from(told.ssi_signo).map_err(io::Error::other)?;
            match (Signal::try_from(number), &mut self.dyno) {
                (Ok(Signal::SIGCHLD), _) | (Err(_), _) => {}
                (Ok(END_NOW), dyno) => {
                    let ended = dyno.as_ref().and_then(|dyno| dyno.ended);
                    return Ok(Some(ended.map_or(KILLED, |(status, _)| status)));
                }
                // What is left has been told, and is at it.
                (Ok(Signal::SIGTERM), Some(dyno)) if dyno.ended.is_some() => {}
                (Ok(signal), Some(dyno)) => {
                    dyno.told |= signal == Signal::SIGTERM;
                    everybody(self.place, signal)?;
                }
                // There is nobody yet who could end in its own way.
                (Ok(signal), None) => return Ok(Some(Exit::Signal(signal as i32).status())),
            }
        }
        Ok(None)
    }

    fn hear_hsup(&mut self) -> io::Result<Option<u8>> {
        let mut bytes = [0; 16 * 1024];
        let length = match nix::unistd::read(io::stdin().as_fd(), &mut bytes) {
            Ok(0) => return Ok(Some(ABANDONED)),
            Ok(length) => length,
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.received.extend(bytes.iter().take(length));
        while let Some(frame) = Frame::take(&mut self.received)? {
            match (frame, &mut self.dyno) {
                (Frame::Start(start), None) => self.dyno = Some(Dyno::start(self.place, &start)?),
                (Frame::Input(input), Some(dyno)) => dyno.pending.extend(input),
                (Frame::EndOfInput, Some(dyno)) => dyno.no_more = true,
                (Frame::Window(size), Some(dyno)) => dyno.resize(size),
                (Frame::Start(_), Some(_)) | (_, None) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        if let Some(dyno) = &mut self.dyno {
            dyno.feed()?;
        }
        Ok(None)
    }
}

enum Input {
    Nothing,
    Readable,
    Ended,
}

impl Dyno {
    fn start(place: Place, start: &Start) -> io::Result<Self> {
        let Connected { main, sink, terminal } = start_main(start)?;
        for fd in [sink.as_ref(), terminal.as_ref()].into_iter().flatten() {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let grace = Duration::from_millis(start.grace_ms);
        Ok(Self {
            place,
            main,
            told: false,
            ended: None,
            grace,
            sink,
            pending: Vec::new(),
            no_more: false,
            terminal,
        })
    }

    /// Hands on as much of its input as it takes.
    fn feed(&mut self) -> io::Result<()> {
        while let (Some(sink), false) = (&self.sink, self.pending.is_empty()) {
            match nix::unistd::write(sink, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                // It reads no more.
                Err(Errno::EPIPE | Errno::EIO) => self.sink = None,
                Err(error) => return Err(error.into()),
            }
        }
        if self.sink.is_none() {
            self.pending.clear();
        }
        if self.no_more {
            self.sink = None;
        }
        Ok(())
    }

    /// Shows a piece of what there is at its terminal; tells how long it was. One that prints faster than that is taken
    /// is not to hold up what it is told.
    fn show(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let Some(terminal) = &self.terminal else { return Ok(0) };
        let mut bytes = [0; 16 * 1024];
        let length = match nix::unistd::read(terminal, &mut bytes) {
            Ok(0) | Err(Errno::EIO) => {
                self.terminal = None;
                0
            }
            Ok(length) => length,
            Err(Errno::EINTR | Errno::EAGAIN) => 0,
            Err(error) => return Err(error.into()),
        };
        to.write_all(bytes.get(..length).unwrap_or_default())?;
        to.flush()?;
        Ok(length)
    }

    /// Shows the last of it: no more than was there, since those who outlive the main process may print on.
    fn show_the_last(&mut self, to: &mut impl Write) -> io::Result<()> {
        let mut shown = 0;
        while shown < MAX_UNSHOWN_BYTES {
            match self.show(to)? {
                0 => break,
                length => shown += length,
            }
        }
        Ok(())
    }

    fn resize(&self, [rows, columns]: [u16; 2]) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if let Some(terminal) = &self.terminal {
            let _it_has_been_closed = sys::set_window_size(terminal.as_fd(), &size);
        }
    }

    /// Reaps whatever has ended. Gives the exit status once nobody is left, or may be.
    fn over(&mut self) -> io::Result<Option<u8>> {
        let left = loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    (pid, Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => break true,
                Err(Errno::ECHILD) => break false,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if pid == self.main && self.ended.is_none() {
                self.ended = Some((exit.status(), Instant::now() + self.grace));
                // Processes that outlive it are given the time that they would have if hsup stopped the dyno. Where it
                // does, what they do to end is not told to end itself.
                if !std::mem::replace(&mut self.told, true) {
                    everybody(self.place, Signal::SIGTERM)?;
                }
            }
        };
        match self.ended {
            Some((status, kill_at)) if !left || Instant::now() >= kill_at => {
                self.show_the_last(&mut io::stdout())?;
                Ok(Some(status))
            }
            Some(_) | None => Ok(None),
        }
    }
}

/// Signals every process of the container but this one. Inside a container that runs the others are not this one's to
/// signal, and its own have been by who is the first there.
fn everybody(place: Place, signal: Signal) -> io::Result<()> {
    match place {
        Place::Inside => Ok(()),
        Place::First => match kill(Pid::from_raw(-1), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::{OpenptyResult, openpty};
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

    use super::*;

    const PIECE: &[u8] = b"and on it goes ";

    /// Who prints again as soon as what was printed is taken.
    struct Flood {
        prints_at: OwnedFd,
        shown_at: OwnedFd,
        taken: usize,
    }

    impl Flood {
        fn print(&self) {
            nix::unistd::write(&self.prints_at, PIECE).unwrap();
            poll(&mut [PollFd::new(self.shown_at.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        }
    }

    impl Write for Flood {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !bytes.is_empty() {
                assert!(self.taken < 2 * MAX_UNSHOWN_BYTES, "it goes on without end");
                self.taken += bytes.len();
                self.print();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A dyno whose terminal is never empty.
    fn flooded() -> (Dyno, Flood) {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let mut raw = tcgetattr(&slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&slave, SetArg::TCSANOW, &raw).unwrap();
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let flood = Flood { prints_at: slave, shown_at: master.try_clone().unwrap(), taken: 0 };
        flood.print();
        let dyno = Dyno {
            place: Place::Inside,
            main: Pid::this(),
            told: false,
            ended: None,
            grace: Duration::ZERO,
            sink: None,
            pending: Vec::new(),
            no_more: false,
            terminal: Some(master),
        };
        (dyno, flood)
    }

    #[test]
    fn a_dyno_that_prints_without_end_is_shown_piece_by_piece() {
        let (mut dyno, mut flood) = flooded();
        for n in 1..=3 {
            assert_eq!(dyno.show(&mut flood).unwrap(), PIECE.len());
            assert_eq!(flood.taken, n * PIECE.len());
        }
    }

    #[test]
    fn the_last_of_what_is_printed_without_end_has_an_end() {
        let (mut dyno, mut flood) = flooded();
        dyno.show_the_last(&mut flood).unwrap();
        assert!(flood.taken >= MAX_UNSHOWN_BYTES, "{}", flood.taken);
    }
}
