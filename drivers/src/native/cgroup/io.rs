//! The io controller (blkio in v1): what is written to keep a weight of I/O.

use super::controller::{Setting, Version};
use crate::Limits;

/// The weight of a cgroup to which none is given, in v2 and for the BFQ scheduler.
const USUAL: u32 = 100;
/// The highest weight that the BFQ scheduler knows.
const MAX_BFQ: u32 = 1000;

/// What these limits write. Which of the files there is depends on the schedulers of the kernel.
pub(super) fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    let Some(weight) = limits.io_weight else { return Vec::new() };
    let choices = match version {
        Version::V2 => vec![("io.weight", weight.to_string()), ("io.bfq.weight", bfq(weight).to_string())],
        Version::V1 => {
            vec![("blkio.bfq.weight", bfq(weight).to_string()), ("blkio.weight", cfq(weight).to_string())]
        }
    };
    vec![Setting::required("io", choices)]
}

/// BFQ has the usual weight where v2 has it, and fewer above: up to it they are the same, and what is above is
/// squeezed.
fn bfq(weight: u16) -> u32 {
    let weight = u32::from(weight);
    let above = weight.saturating_sub(USUAL);
    weight.min(USUAL) + above * (MAX_BFQ - USUAL) / (u32::from(crate::limits::MAX_IO_WEIGHT) - USUAL)
}

/// CFQ, which kernels before 5.0 have, goes from 10 to 1000, 500 being the usual weight: ratios are kept as far
/// as that reaches.
fn cfq(weight: u16) -> u32 {
    (u32::from(weight) * 5).clamp(10, 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let choices = |version, weight| {
            let limits = Limits { io_weight: weight, ..Limits::default() };
            let settings = settings(version, &limits);
            settings
                .into_iter()
                .flat_map(|setting| setting.choices)
                .map(|(file, text)| format!("{file}={text}"))
        };
        let golden = [
            (1, ["io.weight=1", "io.bfq.weight=1"], ["blkio.bfq.weight=1", "blkio.weight=10"]),
            (100, ["io.weight=100", "io.bfq.weight=100"], ["blkio.bfq.weight=100", "blkio.weight=500"]),
            (1000, ["io.weight=1000", "io.bfq.weight=181"], ["blkio.bfq.weight=181", "blkio.weight=1000"]),
            (
                10_000,
                ["io.weight=10000", "io.bfq.weight=1000"],
                ["blkio.bfq.weight=1000", "blkio.weight=1000"],
            ),
        ];
        for (weight, v2, v1) in golden {
            assert!(choices(Version::V2, Some(weight)).eq(v2), "{weight}");
            assert!(choices(Version::V1, Some(weight)).eq(v1), "{weight}");
        }
        assert_eq!(choices(Version::V2, None).count(), 0);
    }
}
