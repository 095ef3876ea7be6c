//! A text that somebody waits for in what a run prints. Knows no pipes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memmem::Finder;

/// A text that is waited for, and who is told when it is there, once. Cheap to clone.
#[derive(Clone)]
pub struct Awaited(Arc<Shared>);

struct Shared {
    text: Finder<'static>,
    found: AtomicBool,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl Awaited {
    /// Waits for a line with this text in it.
    pub fn new(text: &str, tell: impl Fn() + Send + Sync + 'static) -> Self {
        let (text, tell) = (Finder::new(text).into_owned(), Box::new(tell));
        Self(Arc::new(Shared { text, found: AtomicBool::new(false), tell }))
    }

    /// Looks into lines that have been printed. Whether there is more to be looked for.
    pub(super) fn look<'a>(&self, mut runs_of_lines: impl Iterator<Item = &'a [u8]>) -> bool {
        let Shared { text, found, tell } = &*self.0;
        if !found.load(Ordering::Relaxed)
            && runs_of_lines.any(|lines| text.find(lines).is_some())
            && !found.swap(true, Ordering::Relaxed)
        {
            tell();
        }
        !found.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0.text.needle());
        f.debug_struct("Awaited").field("text", &text).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn who_waits_is_told_once() {
        let told = Arc::new(AtomicUsize::new(0));
        let awaited = Awaited::new("is up", {
            let told = Arc::clone(&told);
            move || {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        let look = |lines: &[&str]| awaited.look(lines.iter().map(|line| line.as_bytes()));
        assert!(look(&["is\n", "up\nit is\n"]));
        assert!(!look(&["one\n", "two\nthe app is up now\n"]));
        // the other pipe of the run
        assert!(!look(&["is up\n"]));
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
