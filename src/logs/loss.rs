//! Lines that cannot be written to where they belong: when that is to be said, and when that it is over. A disk that is
//! nearly full takes some and refuses others, and must not be told of each time.

use std::time::{Duration, Instant};

/// How long nothing must have been lost for it to be over.
const CALM: Duration = Duration::from_secs(5);

/// What has been lost since that was said.
#[derive(Debug, Default)]
pub(super) struct Loss {
    lines: u64,
    last: Option<Instant>,
}

impl Loss {
    /// So many lines are lost. Whether they are the first ones, which is to be said.
    pub(super) fn add(&mut self, lines: u64) -> bool {
        self.lines += lines;
        self.last.replace(Instant::now()).is_none()
    }

    /// Lines were written. How many were lost before, if that is over.
    pub(super) fn over(&mut self) -> Option<u64> {
        self.last.take_if(|last| last.elapsed() >= CALM).map(|_| std::mem::take(&mut self.lines))
    }

    /// There will be no more lines. How many were lost of the last ones.
    pub(super) fn rest(self) -> Option<u64> {
        self.last.map(|_| self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_said_once_and_over_when_it_has_been_calm() {
        let mut loss = Loss::default();
        assert!(loss.add(2) && !loss.add(3));
        assert_eq!(loss.over(), None, "it may go on");
        assert!(!loss.add(1), "it is the same one");
        *loss.last.as_mut().unwrap() -= CALM;
        assert_eq!((loss.over(), loss.over()), (Some(6), None));
        assert!(loss.add(1));
        assert_eq!((loss.rest(), Loss::default().rest()), (Some(1), None));
    }
}
