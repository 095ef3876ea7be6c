//! The cpu controller: what is written to keep a limit of CPU time.

use super::controller::{Setting, Version};
use crate::Limits;

/// The period that a quota is of: the kernel's own default, short enough for a web dyno that has used up its
/// quota to answer again before anybody notices.
const PERIOD_US: u64 = 100_000;

/// What these limits write.
pub(super) fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    let Some(millis) = limits.cpu_millis else { return Vec::new() };
    let quota_us = u64::from(millis) * PERIOD_US / 1000;
    let writes = match version {
        Version::V2 => vec![("cpu.max", format!("{quota_us} {PERIOD_US}"))],
        Version::V1 => {
            vec![("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota_us.to_string())]
        }
    };
    writes.into_iter().map(|write| Setting::required("cpu", vec![write])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let written = |version, cpu_millis| {
            let settings = settings(version, &Limits { cpu_millis, ..Limits::default() });
            settings.into_iter().flat_map(|setting| setting.choices).collect::<Vec<_>>()
        };
        assert_eq!(written(Version::V2, None), []);
        assert_eq!(written(Version::V2, Some(500)), [("cpu.max", "50000 100000".to_owned())]);
        assert_eq!(written(Version::V2, Some(10)), [("cpu.max", "1000 100000".to_owned())]);
        let v1 = [("cpu.cfs_period_us", "100000".to_owned()), ("cpu.cfs_quota_us", "200000".to_owned())];
        assert_eq!(written(Version::V1, Some(2000)), v1);
    }
}
