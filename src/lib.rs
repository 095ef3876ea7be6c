//! hsup: a Heroku-style process supervisor for Linux hosts.

pub mod dyno;
pub mod formation;
pub mod model;
pub mod slug;
pub mod sources;
