//! What a supervisor is asked to do, and how that may end.

use hsup_drivers::Stdio;

use crate::dyno::Policy;
use crate::listen::Listeners;
use crate::model::{self, LimitSettings, Quantities, RolloutSettings};

/// What is to be done with releases.
#[derive(Clone, Debug)]
pub enum Work {
    /// Keep the dynos of the formation running.
    Formation {
        /// How many of each type.
        quantities: Quantities,
    },
    /// Run this command once, as `run.1`.
    OneOff {
        /// The command.
        command: model::Command,
        /// Where its input and output are connected.
        stdio: Stdio,
    },
    /// Prepare the first release and end.
    Build,
}

/// How the supervisor works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is to be done.
    pub work: Work,
    /// The number of the first dyno of each type.
    pub start_number: u32,
    /// What holds for every dyno.
    pub policy: Policy,
    /// What dynos may use of the host, where the operator says so.
    pub limits: LimitSettings,
    /// How dynos show that they are well, and how they are replaced, where the operator says so.
    pub rollout: RolloutSettings,
    /// The sockets that hsup holds for dynos.
    pub listeners: Listeners,
    /// Whether releases come prepared.
    pub skip_build: bool,
}

/// Whether, and how, everything is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Not at all.
    #[default]
    No,
    /// In good order: every dyno is told to end and has its time for it.
    Graceful,
    /// Now: every dyno is killed.
    Now,
}

/// How it all ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was stopped, by a shutdown or by an operator.
    Stopped,
    /// Every dyno that runs once has run; the highest of their exit statuses.
    Finished(u8),
    /// It was shut down before what it was to do once had been done.
    Interrupted,
    /// The release of a one-shot start could not be prepared.
    NotPrepared,
}
