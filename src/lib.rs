//! hsup: a Heroku-style process supervisor for Linux hosts.

pub mod dyno;
pub mod formation;
pub mod logs;
pub mod model;
pub mod slug;
pub mod sources;

/// An error with its causes, in one line.
pub fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
