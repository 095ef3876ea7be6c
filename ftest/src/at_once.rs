//! Cases of a test side by side: each waits for polls far more than it works.

use std::panic::resume_unwind;
use std::thread;

/// Runs a test with each case, all at the same time.
///
/// # Panics
/// If it does with one of them.
pub fn at_once<C: Send>(cases: impl IntoIterator<Item = C>, test: impl Fn(C) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(move || test(case))).collect();
        for case in running {
            case.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}
