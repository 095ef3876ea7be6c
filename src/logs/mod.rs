//! What dynos print, on its way to the operator.

mod console;
mod lines;
mod reader;

pub use console::{Console, Written};
pub use lines::MAX_LINE_BYTES;
pub use reader::print_output;
