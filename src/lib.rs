//! hsup: a Heroku-style process supervisor for Linux hosts.
//!
//! # Words
//! Heroku's: an **app** has **releases**; a release is a version of its **slug** (the code), its **config vars**
//! and its **formation** (process types, each with a command and a quantity) on a **stack** (a base image). A
//! **dyno** is one running process of a type, `web.1`; a **one-off dyno** is `run.1`. A **dyno driver** turns a
//! dyno into processes of this host. A **source** is where releases come from. An **executor** is the state
//! machine and the task that own one dyno.
//!
//! # Theory of operation
//! ```text
//! source --Release--> supervisor --plan--> executor (one task a dyno) --DynoSpec--> driver --> processes
//!                        |                     |  facts carry a RunId
//!   control API <--handle+                     +--> what dynos print: console, tail buffer, drains, files
//!        ^-------- events, told by each of these
//! ```
//! State is owned, by one task each, and reached by messages: [`formation::Supervisor`] owns the formation, an
//! executor ([`dyno::Dyno::start`]) owns a dyno, a run ([`hsup_drivers::Run`]) owns processes. What has to be
//! right is pure: the state machine of a dyno knows no driver and no clock, the plan that turns the dynos that
//! are there into those that should be knows no tasks.
//!
//! A release is prepared before the dynos of the one before are touched. A fault belongs to one thing: it is
//! said, retried with backoff, and stops nothing else. Only what makes it impossible to start at all ends hsup.
//!
//! Dynos die with hsup, however it dies: hsup is two processes but where its dynos see to that themselves, see
//! [`hsup_drivers::guardian`].
//!
//! # Map
//! `main -> cli -> formation -> dyno -> drivers`; [`sources`], [`control`] and [`logs`] reach the formation by
//! its handle or by channels only; [`slug`] and [`stack`] turn locations into directories, by [`archive`];
//! [`events`] hears of all that happens; [`model`] is everybody's.

pub mod archive;
mod blocking;
pub mod cli;
pub mod control;
pub mod diagnostics;
mod durable;
pub mod dyno;
pub mod events;
pub mod formation;
pub mod history;
mod http;
pub mod listen;
pub mod log;
pub mod logs;
pub mod model;
pub mod secret;
pub mod slug;
pub mod sources;
pub mod stack;
pub mod stderr;
pub mod systemd;
pub mod users;

pub use hsup_drivers::explain;
