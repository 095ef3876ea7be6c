//! hsup's own exit codes, in one table. They follow sysexits(3) and stay clear of the codes that `run` and
//! `start --oneshot` pass on from dynos: 0 to 63 in practice, 126, 127 and 128 + the number of a signal.

use std::process;

/// How hsup ends when it is hsup, not a dyno, that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything went as asked.
    Ok = 0,
    /// A flag, an argument or a variable is wrong (EX_USAGE).
    Usage = 64,
    /// The release, the control file or a stack is invalid, the release could not be prepared, or the releases that there
    /// are do not allow what is asked (EX_DATAERR).
    ReleaseInvalid = 65,
    /// There is no source of releases or no such stack, or the one that was chosen cannot be read (EX_NOINPUT).
    NoSource = 66,
    /// No hsup is running that the command could talk to, it does not answer, or which one is meant is not clear
    /// (EX_UNAVAILABLE).
    NotRunning = 69,
    /// A fault of hsup itself (EX_SOFTWARE).
    Internal = 70,
    /// The operating system refused something that hsup cannot do without (EX_OSERR).
    System = 71,
    /// The control socket is in use by another hsup or cannot be made (EX_CANTCREAT).
    Socket = 73,
    /// What was to be printed could not be written (EX_IOERR).
    Output = 74,
    /// What hsups that were killed have left behind is still there (EX_TEMPFAIL).
    LeftBehind = 75,
    /// The running hsup, or the system, does not let this user (EX_NOPERM).
    NotPermitted = 77,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Usage,
        Self::ReleaseInvalid,
        Self::NoSource,
        Self::NotRunning,
        Self::Internal,
        Self::System,
        Self::Socket,
        Self::Output,
        Self::LeftBehind,
        Self::NotPermitted,
    ];

    /// What `run` and `build` end with when a signal comes before there is anything else to end with: that of a
    /// process that SIGTERM has ended.
    pub const INTERRUPTED: u8 = 143;

    /// The number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What it tells, in the words of the documentation.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success",
            Self::Usage => "a flag, an argument or a variable is wrong",
            Self::ReleaseInvalid => {
                "the release, the control file or a stack is invalid, the release could not be prepared, or the releases that there are do not allow what is asked"
            }
            Self::NoSource => "there is no source of releases or no such stack, or it cannot be read",
            Self::NotRunning => "no hsup is running that the command could talk to, or it does not answer",
            Self::Internal => "a fault of hsup itself",
            Self::System => "the operating system refused something that hsup needs",
            Self::Socket => "the control socket is in use or cannot be made",
            Self::Output => "standard output could not be written",
            Self::LeftBehind => "what hsups that were killed have left behind is still there",
            Self::NotPermitted => "this user may not ask that of the running hsup",
        }
    }
}

/// The documented table, number and meaning, by number. `run` and `start --oneshot` also end with the code of
/// a dyno.
pub const TABLE: [(u8, &str); ExitCode::ALL.len()] = {
    let mut table = [(0, ""); ExitCode::ALL.len()];
    let mut row = 0;
    while row < table.len() {
        table[row] = (ExitCode::ALL[row].number(), ExitCode::ALL[row].meaning());
        row += 1;
    }
    table
};

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_number_stands_once() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0), "{TABLE:?}");
        assert!(TABLE.iter().all(|(_, meaning)| !meaning.is_empty()));
    }

    #[test]
    fn the_readme_has_the_table() {
        let readme = include_str!("../../README.md");
        for (number, meaning) in TABLE {
            assert!(readme.contains(&format!("| {number} | {meaning} |")), "{number}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_sysexits_and_never_those_of_a_shell() {
        let numbers = TABLE.map(|(number, _)| number);
        assert_eq!(numbers, [0, 64, 65, 66, 69, 70, 71, 73, 74, 75, 77]);
        assert!(numbers.iter().all(|n| *n < 126));
    }
}
