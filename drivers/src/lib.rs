//! Dyno drivers: what turns a dyno into processes.
//!
//! A [`DynoDriver`] prepares a release once ([`DynoDriver::build`]) and starts dynos of it
//! ([`DynoDriver::start`]). Each start gives a [`Run`], the one owner of that run's processes: through it they
//! are signalled and waited for, and through nothing else. A driver knows no releases, no restarts and no
//! clocks; when to start and when to stop is decided by its caller.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// A boxed future, for the traits of this crate to be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// A signal of this number ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it ended as it should: with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The exit status as a shell gives it: the code, or 128 + the number of the signal.
    pub fn status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}
