//! What happens, as events: each is told once, by whoever knows first, and kept for a while for who asks and who
//! follows. Counts of them outlive what is kept. Nobody who tells ever waits for who hears.

mod event;
mod journal;
mod tally;

pub use event::{DynoNews, Event, ReleaseNews, What};
pub use journal::{Events, Missed, Place, Reading};
pub use tally::{Histogram, START_SECONDS, Tally};
