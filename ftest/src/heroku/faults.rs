//! Faults on demand: what the fake answers in the place of what it has been asked for.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::requests::Endpoint;

type Edit = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// What goes wrong with an answer.
#[derive(Clone)]
pub enum Fault {
    /// A status with the error that the API has for it.
    Status(u16),
    /// A 429 that tells after how many seconds to ask again.
    RateLimited(u64),
    /// A status, with word of the seconds until the rate limit is reset.
    Resets(u16, u64),
    /// The answer is at this URL.
    Redirect(String),
    /// The answer is held back until [`super::FakeHeroku::mend`].
    Held,
    /// The connection is closed without an answer.
    Cut,
    /// Half of the body is sent, then the connection is closed.
    Truncated,
    /// This body, whatever it is.
    Body(String),
    /// The right body, but for an edit.
    Edited(Edit),
}

impl Fault {
    /// The right body, but for this edit.
    pub fn edited(edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Edited(Arc::new(edit))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "Status({status})"),
            Self::RateLimited(seconds) => write!(f, "RateLimited({seconds})"),
            Self::Resets(status, seconds) => write!(f, "Resets({status}, {seconds})"),
            Self::Redirect(url) => write!(f, "Redirect({url:?})"),
            Self::Held => f.write_str("Held"),
            Self::Cut => f.write_str("Cut"),
            Self::Truncated => f.write_str("Truncated"),
            Self::Body(body) => write!(f, "Body({body:?})"),
            Self::Edited(_) => f.write_str("Edited"),
        }
    }
}

/// The faults that are to come, of which the first that fits strikes.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    /// `None`: everything of the API, which the blobs do not belong to.
    endpoint: Option<Endpoint>,
    fault: Fault,
    /// How often it strikes; `None`: until it is lifted.
    left: Option<u32>,
}

impl Planned {
    fn fits(&self, endpoint: Endpoint) -> bool {
        self.endpoint.map_or(endpoint != Endpoint::Blob, |own| own == endpoint)
    }
}

impl Faults {
    pub(super) fn plan(&mut self, endpoint: Option<Endpoint>, fault: Fault, times: Option<u32>) {
        self.planned.push(Planned { endpoint, fault, left: times });
    }

    pub(super) fn lift(&mut self) {
        self.planned.clear();
    }

    /// The fault that strikes an answer, if any does.
    pub(super) fn strike(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let planned =
            self.planned.iter_mut().find(|planned| planned.fits(endpoint) && planned.left != Some(0))?;
        planned.left = planned.left.map(|left| left - 1);
        Some(planned.fault.clone())
    }
}
