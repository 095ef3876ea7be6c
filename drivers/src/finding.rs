//! What is found that hsups which were killed have left behind, in words. Nothing is looked for here.

use std::fmt;

/// What kind of thing was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// An hsup's entry in the ledger of those that run.
    Entry,
    /// A process of a dyno.
    Process,
    /// A run of a dyno, as a whole.
    Run,
    /// A file of the ledger that is no record, or the ledger itself.
    Record,
    /// A dyno's init.
    Init,
    /// A cgroup.
    Cgroup,
    /// The host's end of a veth pair.
    Link,
    /// A mount.
    Mount,
    /// A directory.
    Dir,
    /// The claim of a UID.
    Uid,
    /// The claim of a /30 network.
    Subnet,
    /// The packet filter of all dynos.
    Filter,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "entry",
            Self::Run => "run",
            Self::Record => "record",
            Self::Process | Self::Init => "process",
            Self::Cgroup => "cgroup",
            Self::Link => "link",
            Self::Mount => "mount",
            Self::Dir => "directory",
            Self::Uid => "claim of UID",
            Self::Subnet => "claim of subnet",
            Self::Filter => "packet filter",
        })
    }
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there; nothing has been done.
    Found,
    /// It has been undone.
    Mended,
    /// It stays, and why.
    Kept(String),
}

/// Something that a dead hsup has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// Which one: a path, a name, a number.
    pub place: String,
    /// What has become of it.
    pub state: State,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.place)?;
        match &self.state {
            State::Found => f.write_str(": left behind by an hsup that is dead"),
            State::Mended => f.write_str(": removed"),
            State::Kept(why) => write!(f, ": kept: {why}"),
        }
    }
}
