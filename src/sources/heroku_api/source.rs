//! When the Platform API is asked, and what becomes of what was found or of what went wrong.

use std::sync::Arc;
use std::time::Duration;

use hsup_drivers::BoxFuture;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::error::ApiError;
use super::snapshot::{Found, Looker};
use crate::explain;
use crate::http::{Retry, random_fraction};
use crate::model::ReleaseVersion;
use crate::sources::last_good::LastGood;
use crate::sources::{GaveUp, Link, Patience, ReleaseSource, publish, publish_stale};

/// How far a wait may be from the interval, so that many hosts of one app do not ask all at once.
const JITTER: f64 = 0.2;

/// How much slower the API is asked while it says no: that is up to people, who take minutes.
const SLOWER: u32 = 6;

/// A fault that passes is asked about again after this time, twice of it, and so on up to the interval of polls:
/// a blip is soon over, and what hsup asks of an API that is down is never more than of one that is not.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait that a reset may ask for: Heroku's limit is one of requests an hour.
const LONGEST_RESET: Duration = Duration::from_secs(3600);

/// The releases of an app as the Platform API tells them.
///
/// Published is what Heroku runs: the newest release that has succeeded, with its own config vars and the
/// formation of this moment. While the API cannot be asked the release in force stays; a start meanwhile runs the
/// one that went live here last.
pub struct HerokuApi {
    looker: Looker,
    poll_interval: Duration,
    patience: Patience,
    last_good: LastGood,
    /// Whether the last good release may run while the API cannot be asked.
    stale: bool,
    trouble: Option<Trouble>,
    /// What was said last of an app that has nothing to run.
    told: Option<String>,
}

/// What is wrong at the moment.
struct Trouble {
    failures: u32,
    since: Instant,
    told: String,
}

impl HerokuApi {
    /// A source that asks through this client. `last_good` is where releases that went live are kept, and
    /// `stale` whether such a one may run when the API cannot be asked.
    pub fn new(
        client: Arc<Client>,
        poll_interval: Duration,
        patience: Patience,
        last_good: LastGood,
        stale: bool,
    ) -> Self {
        let looker = Looker::new(client);
        Self { looker, poll_interval, patience, last_good, stale, trouble: None, told: None }
    }

    /// Asks again and again; ends once there is the one release that somebody waits for. Its dyno runs to its own end
    /// then, whatever becomes of the app.
    async fn poll(mut self, link: &Link) -> Result<(), GaveUp> {
        loop {
            let asked = link.reread.newest();
            let wait = match self.looker.look().await {
                Ok(found) => {
                    self.recovered();
                    link.looks.succeeded();
                    self.take(found, link)?;
                    jitter(self.poll_interval)
                }
                Err(error) => self.fail(error, link).await?,
            };
            link.reread.looked(asked);
            if self.patience == Patience::ForOne && link.releases.borrow().is_some() {
                return Ok(());
            }
            tokio::select! {
                _ = link.reread.newer_than(asked) => {}
                () = sleep(wait) => {}
            }
        }
    }

    fn take(&mut self, found: Found, link: &Link) -> Result<(), GaveUp> {
        let app = self.looker.app();
        match found {
            Found::Release { release, warnings } => {
                self.told = None;
                let version = release.version;
                if publish(&link.releases, *release) {
                    warnings
                        .iter()
                        .for_each(|warning| tracing::warn!("release {version} of {app}: {warning}"));
                }
            }
            Found::Nothing(why) if self.patience == Patience::ForOne => {
                return Err(GaveUp::Unreadable(why.into()));
            }
            Found::Nothing(why) => {
                let text = format!("{why}; waiting for one");
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                    self.told = Some(text);
                }
            }
            Found::Image(why) if self.patience == Patience::ForOne => {
                return Err(GaveUp::Invalid(why.into()));
            }
            Found::Image(why) => {
                let text = format!("{why}{}", runs_on(link));
                if self.told.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                    self.told = Some(text);
                }
            }
        }
        Ok(())
    }

    fn recovered(&mut self) {
        if let Some(Trouble { failures, since, .. }) = self.trouble.take() {
            let (app, time) = (self.looker.app(), since.elapsed());
            tracing::info!(
                "the releases of {app} can be read again, after {failures} failures in {time:.0?}"
            );
        }
    }

    /// Deals with a look that failed; gives how long to wait before the next one.
    async fn fail(&mut self, error: ApiError, link: &Link) -> Result<Duration, GaveUp> {
        let text = explain(&error);
        link.looks.failed(&text);
        let nothing_yet = link.releases.borrow().is_none();
        if nothing_yet && error.passes() && self.run_last_good(&error, link).await {
            return Ok(self.wait(&error));
        }
        if self.patience == Patience::ForOne && nothing_yet && self.is_hopeless(&error) {
            return Err(GaveUp::Unreadable(error.into()));
        }
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            failures: 0,
            since: Instant::now(),
            told: String::new(),
        });
        trouble.failures += 1;
        let is_news = trouble.told != text;
        trouble.told.clone_from(&text);
        let wait = self.wait(&error);
        let app = self.looker.app();
        let line = format!("cannot read the releases of {app}: {text}{}", runs_on(link));
        if is_news {
            tracing::error!("{line}; asking again in {wait:.0?}");
        } else {
            tracing::debug!("{line}; asking again in {wait:.0?}");
        }
        Ok(wait)
    }

    /// Whether somebody who waits for one release would wait too long, or for ever.
    fn is_hopeless(&self, error: &ApiError) -> bool {
        let Retry { attempts, longest_delay, .. } = Retry::default();
        let failures = self.trouble.as_ref().map_or(0, |trouble| trouble.failures) + 1;
        !error.passes() || failures >= attempts || error.asked_to_wait() > Some(longest_delay)
    }

    /// How long to wait after this error: as long as the API asks for, but not shorter than after any other.
    fn wait(&self, error: &ApiError) -> Duration {
        let reset = error.asked_to_wait().map(|wait| wait.min(LONGEST_RESET));
        let failures = self.trouble.as_ref().map_or(1, |trouble| trouble.failures);
        let retry = Retry { attempts: u32::MAX, first_delay: FIRST_RETRY, longest_delay: self.poll_interval };
        let growing = retry.delay(failures, None);
        match (error, reset) {
            // the jitter is added: not a moment earlier than it asks for
            (_, Some(reset)) => growing.max(reset + self.poll_interval.mul_f64(JITTER * random_fraction())),
            (ApiError::RateLimited { .. }, None) => jitter(self.poll_interval * SLOWER),
            (error, None) if !error.passes() => jitter(self.poll_interval * SLOWER),
            (_, None) => growing,
        }
    }

    /// Runs the last good release, if there is one and it may run.
    async fn run_last_good(&mut self, error: &ApiError, link: &Link) -> bool {
        let app = self.looker.app().clone();
        let kept = match self.last_good.load().await {
            Ok(kept) => kept,
            Err(unreadable) => {
                // said with the first failure, and not with each
                if self.trouble.is_none() {
                    tracing::error!("there is no last good release of {app}: {}", explain(&unreadable));
                }
                None
            }
        };
        let Some(release) = kept else { return false };
        let version: ReleaseVersion = release.version;
        if !self.stale {
            tracing::debug!("release {version} of {app}, the last good one, does not run: --no-stale");
            return false;
        }
        let why = explain(error);
        tracing::warn!("cannot read the releases of {app}: {why}; running {version}, the last good release");
        self.trouble = Some(Trouble { failures: 1, since: Instant::now(), told: why });
        publish_stale(&link.releases, release);
        true
    }
}

/// What goes on in spite of a fault.
fn runs_on(link: &Link) -> String {
    let running = link.live.borrow().as_ref().map(|release| format!("; release {} runs on", release.version));
    running.unwrap_or_default()
}

fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * random_fraction())
}

impl ReleaseSource for HerokuApi {
    fn follow(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), GaveUp>> {
        Box::pin(async move {
            let last_good = self.last_good.clone();
            let keeping = last_good.follow(link.live.clone());
            tokio::pin!(keeping);
            tokio::select! {
                ended = self.poll(&link) => ended?,
                never = &mut keeping => match never {},
            }
            link.reread.end();
            // the one release may have yet to go live
            match keeping.await {}
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AppName;
    use crate::sources::heroku_api::ApiUrl;

    #[test]
    fn a_server_that_asks_for_no_wait_is_asked_less_and_less_often() {
        let app: AppName = "myapp".parse().unwrap();
        let client = Client::new(ApiUrl::default(), "t0ken".parse().unwrap(), app.clone());
        let last_good = LastGood::new("/nowhere".into(), app);
        let interval = Duration::from_secs(60);
        let mut source = HerokuApi::new(client.into(), interval, Patience::Forever, last_good, true);
        let mut waits = |wait, failures| {
            source.trouble = Some(Trouble { failures, since: Instant::now(), told: String::new() });
            let url = String::new();
            source.wait(&ApiError::RateLimited { url, wait: Some(Duration::from_secs(wait)) }).as_secs()
        };
        assert!(waits(0, 6) >= 16 && waits(0, 99) >= 30);
        // the jitter is a fifth of the interval at most
        assert!((3500..=3512).contains(&waits(3500, 1)) && (3600..=3612).contains(&waits(9999, 1)));
    }
}
