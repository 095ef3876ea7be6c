//! Dyno drivers: what turns a dyno into processes.
//!
//! A [`DynoDriver`] prepares a release once ([`DynoDriver::build`]) and starts dynos of it
//! ([`DynoDriver::start`]). Each start gives a [`Run`], the one owner of that run's processes: through it they
//! are signalled and waited for, and through nothing else. A driver knows no releases, no restarts and no
//! clocks; when to start and when to stop is decided by its caller.
//!
//! # Processes that outlive their parent
//! hsup is two processes. The [`guardian`] is the parent: it is the child subreaper, so that every process of
//! every dyno stays below it however it daemonises, and it kills what is left when hsup dies. hsup proper is
//! its child, and the parent of the dynos' main processes. A dyno that has lost its main process is therefore
//! to be found below the guardian, and is told apart there by the mark of its run in its environment.
//!
//! The [`native`] driver has a third one: its zygote, forked before hsup proper has a second thread, from which the
//! inits of dynos are cloned. Each is a child of hsup proper as well, and the first process of a pid namespace, which
//! ends with it, and with hsup proper: of its dyno no process can leave. So hsup does without the guardian where all that it
//! has is a one-off dyno of this driver.
//!
//! # Commands inside a run
//! [`Run::exec`] starts a command where the processes of a run are. It is none of them: what it starts is killed as a
//! whole, without the run. Where runs are apart from the host a process of hsup's, started there beside the command, is
//! the child subreaper of all that it starts, and ends it when hsup is gone.
//!
//! Dynos of the [`docker`] driver are processes of the engine's. What makes them die with hsup is the input of their
//! container, which ends when hsup does: see [`docker::entry`].

#![deny(unsafe_code)]

mod abspath;
mod below;
mod command;
pub mod docker;
mod driver;
mod exit;
mod explain;
pub mod finding;
pub mod guardian;
mod held;
pub mod ledger;
pub mod limits;
pub mod native;
mod netns;
mod notify;
pub mod owner;
pub mod process;
pub mod running;
mod simple;
mod subprocess;
#[expect(unsafe_code, reason = "the one room that calls the kernel and libc directly")]
pub mod sys;

pub use abspath::AbsPath;
pub use driver::{
    BoxFuture, BuildError, BuildSpec, Built, DynoDriver, DynoSpec, Exec, Image, KillSignal, MainExit,
    Network, Notify, Output, Run, SignalError, StartError, Stdio,
};
pub use exit::Exit;
pub use explain::explain;
pub use limits::{LimitError, Limits, parse_size};
pub use simple::Simple;
