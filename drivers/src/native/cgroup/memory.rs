//! The memory controller: what is written to keep limits of memory and swap.

use super::Warning;
use super::controller::{Absent, Setting, Version};
use crate::Limits;

/// What these limits write.
pub(super) fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    match version {
        Version::V2 => v2(limits),
        Version::V1 => v1(limits),
    }
}

fn v2(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        settings.push(Setting::required("memory", vec![("memory.max", bytes.to_string())]));
    }
    if let Some(bytes) = limits.swap_bytes {
        settings.push(swap("memory.swap.max", bytes));
    }
    if !settings.is_empty() {
        // A dyno of which the kernel has killed some process is no longer what it was: all of it goes.
        let choices = vec![("memory.oom.group", "1".to_owned())];
        settings.push(Setting { choices, absent: Absent::Passes });
    }
    settings
}

/// The limit of memory and swap together must never be below that of memory, and is therefore written after it.
fn v1(limits: &Limits) -> Vec<Setting> {
    let Some(memory) = limits.memory_bytes else { return Vec::new() };
    let mut settings = vec![Setting::required("memory", vec![("memory.limit_in_bytes", memory.to_string())])];
    settings.extend(limits.swap_bytes.map(|swap_bytes| {
        let both = memory.saturating_add(swap_bytes);
        swap("memory.memsw.limit_in_bytes", both)
    }));
    settings
}

fn swap(file: &'static str, bytes: u64) -> Setting {
    Setting { choices: vec![(file, bytes.to_string())], absent: Absent::Warns(Warning::SwapNotCounted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: Version, memory_bytes: Option<u64>, swap_bytes: Option<u64>) -> Vec<String> {
        let limits = Limits { memory_bytes, swap_bytes, ..Limits::default() };
        let settings = settings(version, &limits);
        settings
            .iter()
            .flat_map(|setting| &setting.choices)
            .map(|(file, text)| format!("{file}={text}"))
            .collect()
    }

    #[test]
    fn golden() {
        let (v1, v2) = (Version::V1, Version::V2);
        let none: [&str; 0] = [];
        assert_eq!(written(v2, None, None), none);
        assert_eq!(written(v2, Some(4096), None), ["memory.max=4096", "memory.oom.group=1"]);
        assert_eq!(written(v2, None, Some(0)), ["memory.swap.max=0", "memory.oom.group=1"]);
        let all = ["memory.max=4096", "memory.swap.max=8192", "memory.oom.group=1"];
        assert_eq!(written(v2, Some(4096), Some(8192)), all);
        assert_eq!(written(v1, None, None), none);
        assert_eq!(written(v1, Some(4096), None), ["memory.limit_in_bytes=4096"]);
        let both = ["memory.limit_in_bytes=4096", "memory.memsw.limit_in_bytes=12288"];
        assert_eq!(written(v1, Some(4096), Some(8192)), both);
    }
}
