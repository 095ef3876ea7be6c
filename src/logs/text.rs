//! Log lines as text, as `heroku logs` shows them: `2026-11-21T10:00:00.000000+00:00 app[web.1]: message`.

use super::batch::{Batch, Line};
use super::console::CUT_MARK;
use super::drain::rfc3339;

/// What stands before each line of a batch.
pub(crate) fn head(batch: &Batch) -> Vec<u8> {
    format!("{} {}[{}]: ", rfc3339(batch.at), batch.origin.source(), batch.speaker.as_str()).into_bytes()
}

/// Appends one line behind a head, with its newline.
pub(crate) fn append(text: &mut Vec<u8>, head: &[u8], line: Line<'_>) {
    text.extend_from_slice(head);
    text.extend_from_slice(line.bytes);
    if line.cut {
        text.extend_from_slice(CUT_MARK.as_bytes());
    }
    text.push(b'\n');
}
