//! What all HTTP clients of hsup share: how a client is made, and when it asks again.

mod client;
mod retry;

pub(crate) use client::{HttpClient, Redirects, Timeouts, install_crypto};
pub(crate) use retry::{Retry, asked_to_wait, random_fraction};
