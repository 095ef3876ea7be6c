//! How a process ended.

use std::fmt;

use nix::sys::signal::Signal;

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

    /// What is said of the process in a log, as Heroku says it: `Process exited with status 3`.
    pub fn told(self) -> String {
        match self {
            Self::Code(code) => format!("Process exited with status {code}"),
            Self::Signal(_) => format!("Process was {self}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_shells() {
        assert_eq!(Exit::Code(3).status(), 3);
        assert_eq!(Exit::Signal(9).status(), 137);
        assert_eq!(Exit::Signal(15).to_string(), "killed by SIGTERM");
        assert_eq!(Exit::Signal(40).to_string(), "killed by signal 40");
        assert_eq!(Exit::Signal(9).told(), "Process was killed by SIGKILL");
    }
}
