//! What dynos print, on its way to the operator.
//!
//! A reader takes what is in a dyno's pipe, cuts it into lines and makes a *batch* of it, once. The batch is shared by
//! everything that takes lines, each by a contract of its own:
//!
//! | what takes lines | where it is behind |
//! |---|---|
//! | the console | the dyno waits; one on a disk that is full loses lines, which is said |
//! | the tail buffer | the oldest lines go; a follower is told how many it has missed |
//! | a drain | memory, then disk, then the oldest lines are dropped and told of (`drop`) or the dyno waits (`block`) |
//! | log files | the dyno waits for a slow disk; one that is full or broken loses lines, which is said |

mod awaited;
mod batch;
mod console;
mod drain;
mod dyno_log;
mod files;
mod hub;
mod lines;
mod loss;
mod reader;
mod settings;
mod tail;
mod text;
mod waiting;

pub use awaited::Awaited;
pub use batch::{Batch, Line, Origin, Speaker};
pub use console::{COLOURS, CUT_MARK, Console, Written, may_be_coloured};
pub use drain::{DrainError, DrainPlace, DrainStatus, InvalidDrain, spools};
pub use dyno_log::{DynoLog, Printing, Reading};
pub use files::FilesError;
pub use hub::{Logs, LogsError, LogsStatus};
pub use lines::MAX_LINE_BYTES;
pub use settings::{DrainSettings, FileSettings, InvalidOverflow, LogSettings, Overflow};
pub use tail::{Newest, Place, Start, Tail};
pub(crate) use text::{append as append_text, head as text_head};
