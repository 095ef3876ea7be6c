//! What hsup and systemd have to say to one another: the protocols of sd_notify(3), sd_listen_fds(3),
//! sd_watchdog_enabled(3) and sd-daemon(3), none of which needs systemd's library.
//!
//! It knows nothing of dynos but how many are in which state.

mod given;
mod journal;
mod notifier;
mod reporter;

pub use given::{FIRST_DESCRIPTOR, GivenByManager, GivenSocket};
pub use journal::{is_journal, prefix, priority, say};
pub use notifier::Notifier;
pub use reporter::{Reporter, Watched};
