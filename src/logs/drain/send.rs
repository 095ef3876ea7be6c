//! Delivers a parcel: attempt after attempt, with waits between them, until it is there or there is no use in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::http::HttpSender;
use super::intake::Intake;
use super::parcel::Parcel;
use super::syslog::{Connection, SyslogSender};
use super::target::{Target, Way};
use crate::http::Retry;

/// How attempts follow one another. They go on for as long as hsup does: where the lines wait is bounded.
const RETRY: Retry = Retry {
    attempts: u32::MAX,
    // a receiver that restarts is back within a second
    first_delay: Duration::from_millis(200),
    // one that comes back after a night is noticed soon enough
    longest_delay: Duration::from_secs(30),
};

/// How they do once hsup is about to end: there is not much time, and it is to be used to its end.
const LAST_RETRY: Retry = Retry { longest_delay: Duration::from_secs(1), ..RETRY };

/// Why an attempt has failed.
#[derive(Debug)]
pub(super) enum SendError {
    /// It may succeed next time; the receiver may have said when.
    Failed { what: String, asked: Option<Duration> },
    /// There is no connection to the receiver. It may be there next time.
    Down { what: String },
    /// The receiver does not want it.
    Refused { what: String },
}

/// What has become of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The receiver has it.
    Sent,
    /// The receiver does not want it.
    Refused,
    /// hsup is about to end, and the receiver is down or was of no use for as long as there was time.
    GivenUp,
}

/// How a drain sends.
pub(super) enum Sender {
    Http(HttpSender),
    Syslog(SyslogSender),
}

impl Sender {
    pub(super) fn new(target: &Target, gzip: bool) -> Self {
        match target.way.clone() {
            Way::Http(url) => Self::Http(HttpSender::new(url, gzip)),
            Way::Syslog { host, port, tls } => Self::Syslog(SyslogSender::new(host, port, tls)),
        }
    }
}

/// Delivers a parcel; gives the connection back for the next one.
pub(super) async fn deliver(
    sender: Arc<Sender>,
    target: Arc<Target>,
    intake: Arc<Intake>,
    parcel: Parcel,
    mut connection: Option<Connection>,
) -> (u8, Option<Connection>, Delivery) {
    let mut closing = intake.closing.subscribe();
    let (mut attempt, mut was_closing) = (0, false);
    let began = Instant::now();
    let body = match &*sender {
        Sender::Http(http) => http.body(&parcel),
        Sender::Syslog(_) => parcel.body.clone(),
    };
    loop {
        let result = match &*sender {
            Sender::Http(http) => http.send(&parcel, &body).await,
            Sender::Syslog(syslog) => syslog.send(&parcel, &mut connection).await,
        };
        let (what, asked, is_down) = match result {
            Ok(()) => {
                if intake.numbers.trouble().is_some() {
                    intake.numbers.set_trouble(None);
                    tracing::info!("drain {target}: sending again, after {:.1?}", began.elapsed());
                }
                return (parcel.lane, connection, Delivery::Sent);
            }
            Err(SendError::Refused { what }) => {
                if intake.numbers.trouble().as_ref() != Some(&what) {
                    tracing::error!("drain {target}: {what}; it refuses lines, which are lost");
                }
                intake.numbers.set_trouble(Some(what));
                return (parcel.lane, connection, Delivery::Refused);
            }
            Err(SendError::Failed { what, asked }) => (what, asked, false),
            Err(SendError::Down { what }) => (what, None, true),
        };
        intake.numbers.retries.fetch_add(1, Ordering::Relaxed);
        if intake.numbers.trouble().is_none() {
            tracing::warn!("drain {target}: cannot send log lines: {what}; they wait, trying again");
        }
        intake.numbers.set_trouble(Some(what));
        let deadline = *closing.borrow_and_update();
        // Who has waited for long begins with short waits again.
        attempt = if deadline.is_some() == was_closing { attempt + 1 } else { 1 };
        was_closing = deadline.is_some();
        let delay = match deadline {
            None => RETRY.delay(attempt, asked),
            Some(_) => LAST_RETRY.delay(attempt, None).max(asked.unwrap_or_default()),
        };
        if deadline.is_some_and(|deadline| is_down || Instant::now() + delay >= deadline) {
            return (parcel.lane, connection, Delivery::GivenUp);
        }
        tokio::select! {
            () = sleep(delay) => {}
            // One attempt more, now.
            _ = closing.changed() => {}
        }
    }
}
