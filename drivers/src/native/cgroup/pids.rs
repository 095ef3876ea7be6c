//! The pids controller: what is written to keep a limit of processes and threads.

use super::controller::{Setting, Version};
use crate::Limits;

/// What these limits write, which is the same in both versions.
pub(super) fn settings(_version: Version, limits: &Limits) -> Vec<Setting> {
    let pids = limits.pids.iter();
    pids.map(|pids| Setting::required("pids", vec![("pids.max", pids.to_string())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        for version in [Version::V1, Version::V2] {
            assert_eq!(settings(version, &Limits::default()), []);
            let limits = Limits { pids: Some(256), ..Limits::default() };
            let max = Setting::required("pids", vec![("pids.max", "256".to_owned())]);
            assert_eq!(settings(version, &limits), [max]);
        }
    }
}
