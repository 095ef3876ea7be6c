//! The wish that a source be looked at right now (SIGHUP), and word of when that has been done.

use std::sync::Arc;

use tokio::sync::watch;

/// The number of a wish; each is fulfilled together with those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish(u64);

#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    /// The newest one there is.
    asked: Wish,
    /// The newest one that a look has fulfilled.
    looked: Wish,
}

/// Connects who asks for a look with the source that looks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reread(Arc<watch::Sender<Wishes>>);

impl Reread {
    /// Asks for a look right now.
    pub fn ask(&self) -> Wish {
        self.0.send_modify(|wishes| wishes.asked.0 += 1);
        self.0.borrow().asked
    }

    /// Waits until a look has fulfilled the wish.
    pub async fn fulfilled(&self, wish: Wish) {
        self.until(|wishes| wishes.looked >= wish).await;
    }

    /// The newest wish. A source takes it before it looks, so that one that comes meanwhile is not missed.
    pub(crate) fn newest(&self) -> Wish {
        self.0.borrow().asked
    }

    /// Waits for a wish that is newer than this one, and gives the newest.
    pub(crate) async fn newer_than(&self, wish: Wish) -> Wish {
        self.until(|wishes| wishes.asked > wish).await;
        self.newest()
    }

    /// The source has looked, after this wish was there.
    pub(super) fn looked(&self, wish: Wish) {
        self.0.send_modify(|wishes| wishes.looked = wishes.looked.max(wish));
    }

    /// The source has no further releases: there is nothing to look at any more.
    pub fn end(&self) {
        self.looked(Wish(u64::MAX));
    }

    async fn until(&self, reached: impl Fn(&Wishes) -> bool) {
        // the sender is in this very value, so that it cannot be gone
        let mut wishes = self.0.subscribe();
        let _reached = wishes.wait_for(reached).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wish_is_fulfilled_by_a_look_that_began_after_it() {
        let reread = Reread::default();
        let before = reread.newest();
        let wish = reread.ask();
        reread.newer_than(before).await;
        reread.looked(before);
        assert!(is_pending(reread.fulfilled(wish)).await);
        let begun = reread.newest();
        assert!(is_pending(async { _ = reread.newer_than(begun).await }).await);
        reread.looked(begun);
        reread.fulfilled(wish).await;
    }

    #[tokio::test]
    async fn where_nobody_looks_any_more_nobody_waits() {
        let reread = Reread::default();
        reread.end();
        let wish = reread.ask();
        reread.fulfilled(wish).await;
    }

    async fn is_pending(future: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = future => false,
            () = std::future::ready(()) => true,
        }
    }
}
