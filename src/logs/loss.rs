//! Lines that cannot be written to where they belong: when that is to be said, and when that it is over. A disk that is
//! nearly full takes some and refuses others, and must not be told of each time.

use std::time::{Duration, Instant};

/// How long nothing must have been lost for it to be over.
const CALM: Duration = Duration::from_secs(5);

/// What has been lost since that was said.
#[derive(Debug)]
pub(super) struct Loss {
    lines: u64,
    last: Instant,
}

impl Loss {
    /// So many lines are lost. Whether they are the first ones, which is to be said.
    pub(super) fn add(loss: &mut Option<Self>, lines: u64) -> bool {
        let first = loss.is_none();
        let loss = loss.get_or_insert_with(|| Self { lines: 0, last: Instant::now() });
        loss.lines += lines;
        loss.last = Instant::now();
        first
    }

    /// Lines were written. How many were lost before, if that is over.
    pub(super) fn over(loss: &mut Option<Self>) -> Option<u64> {
        loss.take_if(|loss| loss.last.elapsed() >= CALM).map(|loss| loss.lines)
    }

    /// There will be no more lines. How many were lost of the last ones.
    pub(super) fn rest(loss: &mut Option<Self>) -> Option<u64> {
        loss.take().map(|loss| loss.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_said_once_and_over_when_it_has_been_calm() {
        let mut loss = None;
        assert!(Loss::add(&mut loss, 2) && !Loss::add(&mut loss, 3));
        assert_eq!(Loss::over(&mut loss), None, "it may go on");
        assert!(!Loss::add(&mut loss, 1), "it is the same one");
        loss.as_mut().unwrap().last -= CALM;
        assert_eq!((Loss::over(&mut loss), Loss::over(&mut loss)), (Some(6), None));
        assert!(Loss::add(&mut loss, 1));
        assert_eq!((Loss::rest(&mut loss), Loss::rest(&mut loss)), (Some(1), None));
    }
}
