//! A terminal for a one-off dyno: what is typed at hsup's own terminal goes to the dyno's, and back.
//!
//! The dyno has a pseudo-terminal of its own, so that job control, window size and Ctrl-C are its affair; hsup's
//! terminal is raw meanwhile and is put back as it was in any case.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hsup_drivers::sys;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The two terminals, and what carries bytes between them.
pub struct Terminal {
    /// Held open until the dyno has ended, so that the other end is not closed before the dyno opens it.
    dynos_end: OwnedFd,
    our_end: OwnedFd,
    path: PathBuf,
    /// Told when everything that the dyno printed has been shown.
    shown: oneshot::Receiver<()>,
    saved: Saved,
}

/// The settings of hsup's own terminal, restored when dropped.
struct Saved(Termios);

impl Drop for Saved {
    fn drop(&mut self) {
        let _terminal_is_gone = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

impl Terminal {
    /// Makes a terminal for a dyno if hsup itself is used at one. What the dyno shows is also sent to `log`.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn open(log: mpsc::Sender<Vec<u8>>) -> io::Result<Option<Self>> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(None);
        }
        let settings = tcgetattr(io::stdin())?;
        let OpenptyResult { master: our_end, slave: dynos_end } = openpty(None, &settings)?;
        // openpty(3) cannot make them close-on-exec, and the dyno is to open its end by itself.
        sys::seal_inherited_descriptors()?;
        sys::set_window_size(our_end.as_fd(), &sys::window_size(io::stdin().as_fd())?)?;
        let path = ttyname(&dynos_end)?;
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        let saved = Saved(settings);
        let typed = File::from(our_end.try_clone()?);
        let printed = File::from(our_end.try_clone()?);
        // This thread sits in a read of the keyboard, which nothing interrupts: it ends with the process.
        thread::Builder::new().name("keyboard".to_owned()).spawn(move || copy(io::stdin(), typed, |_| {}))?;
        let (done, shown) = oneshot::channel();
        thread::Builder::new().name("screen".to_owned()).spawn(move || {
            copy(printed, io::stdout(), |bytes| {
                let _log_is_closed = log.blocking_send(bytes.to_vec());
            });
            let _nobody_waits = done.send(());
        })?;
        Ok(Some(Self { dynos_end, our_end, path, shown, saved }))
    }

    /// The device that the dyno is to open.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Hands on changes of the window's size, until dropped.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub async fn follow_window_size(&self) -> io::Result<()> {
        let mut changes = signal(SignalKind::window_change())?;
        while changes.recv().await.is_some() {
            let size = sys::window_size(io::stdin().as_fd())?;
            sys::set_window_size(self.our_end.as_fd(), &size)?;
        }
        Ok(())
    }

    /// The dyno has ended: waits for the last of its output, for so long at the most since a daemon may hold on to
    /// the terminal, and restores hsup's own.
    pub async fn close(self, patience: Duration) {
        let Self { dynos_end, our_end: _, path: _, shown, saved } = self;
        // With its last user gone the terminal gives what is left in it and then an error.
        drop(dynos_end);
        let _held_on_to = timeout(patience, shown).await;
        drop(saved);
    }
}

/// Copies until either side fails: the end of a terminal is an error on its other side.
fn copy(mut from: impl Read, mut to: impl Write, mut tell: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default();
        if to.write_all(bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
        tell(bytes);
    }
}
