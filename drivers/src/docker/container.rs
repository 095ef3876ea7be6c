//! What a container of a dyno is made with: its name, its labels, its limits, and what it may not do. It is not made
//! here.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding};

use super::engine::Engine;
use crate::limits::MAX_IO_WEIGHT;
use crate::native::BindMount;
use crate::{DynoSpec, Image, Limits, Stdio};

/// The labels that tell whose a container is.
const APP_LABEL: &str = "hsup.app";
const RELEASE_LABEL: &str = "hsup.release";
const DYNO_LABEL: &str = "hsup.dyno";
/// The hsup, as [`crate::owner::Owner`] writes it.
pub(super) const OWNER_LABEL: &str = "hsup.owner";
/// The state dir, by the name that hsup has given it.
pub(super) const STATE_LABEL: &str = "hsup.state";
/// The labels of images, which containers inherit whoever makes them: of what app and by which hsups, and of what.
pub(super) const IMAGE_APP_LABEL: &str = "hsup.image.app";
pub(super) const IMAGE_STATE_LABEL: &str = "hsup.image.state";
pub(super) const IMAGE_CONTENT_LABEL: &str = "hsup.image.content";

/// The most processes of a dyno where no limit is set: a fork bomb is bounded in any case.
const DEFAULT_PIDS: i64 = 4096;

/// The longest name of a host (hostname(7)).
const MAX_HOSTNAME_BYTES: usize = 64;

/// Whose containers they are.
pub(super) struct Ownership {
    pub(super) owner: String,
    pub(super) state: String,
}

/// The name of a container, which `n` makes the only one of its kind.
pub(super) fn name(image: &Image, spec: &DynoSpec, n: u64) -> String {
    format!("hsup-{}-{}-{}-{n:x}", word(&image.app), word(&image.version), word(&spec.name))
}

/// A text with nothing in it that Docker would not have in a name.
pub(super) fn word(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    let word: String = text.to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    // names neither begin nor end with what separates their parts, nor have two of these in a row
    let parts: Vec<&str> = word.split(['-', '.']).filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => "x".to_owned(),
        [one] => (*one).to_owned(),
        _ if word.contains("..") || word.contains("--") || word.contains(".-") || word.contains("-.") => {
            parts.join("-")
        }
        _ => word.trim_matches(['-', '.']).to_owned(),
    }
}

/// Everything that the engine is told of a container.
pub(super) fn describe(
    engine: &Engine,
    image: &Image,
    spec: &DynoSpec,
    ownership: &Ownership,
    binds: &[BindMount],
) -> ContainerCreateBody {
    let port = format!("{}/tcp", spec.port);
    // A one-off dyno serves nobody.
    let published = spec.stdio == Stdio::Pipes;
    let labels = [
        (APP_LABEL, image.app.as_str()),
        (RELEASE_LABEL, &image.version),
        (DYNO_LABEL, &spec.name),
        (OWNER_LABEL, &ownership.owner),
        (STATE_LABEL, &ownership.state),
    ];
    let binding = PortBinding {
        host_ip: engine.published_at().map(|address| address.to_string()),
        host_port: Some(String::new()),
    };
    let host_config = HostConfig {
        mounts: Some(binds.iter().map(mount).collect()),
        port_bindings: published.then(|| HashMap::from([(port.clone(), Some(vec![binding]))])),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // What dynos print is hsup's to keep, not the engine's.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        ..limited(spec.limits, engine.cgroup_v2)
    };
    let hostname: String = word(&spec.name).chars().take(MAX_HOSTNAME_BYTES).collect();
    ContainerCreateBody {
        image: Some(image.id.clone()),
        hostname: Some(hostname),
        labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        // The end of hsup is the end of the container's input.
        stdin_once: Some(true),
        tty: Some(false),
        exposed_ports: published.then(|| vec![port]),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

/// As a mount and not as a bind, of which the engine would make the path on the host if it is not there.
fn mount(bind: &BindMount) -> Mount {
    let text = |path: &Path| Some(path.to_string_lossy().into_owned());
    Mount {
        typ: Some(MountType::BIND),
        source: text(&bind.host),
        target: text(&bind.inside),
        read_only: Some(bind.read_only),
        ..Mount::default()
    }
}

fn limited(limits: Limits, cgroup_v2: bool) -> HostConfig {
    let Limits { memory_bytes, swap_bytes, cpu_millis, pids, io_weight } = limits;
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    // The engine counts memory and swap together, and where it is told of memory alone it allows as much swap again.
    let memory_swap = memory_bytes.map(|memory| match swap_bytes {
        Some(swap) => signed(memory.saturating_add(swap)),
        None => -1,
    });
    HostConfig {
        memory: memory_bytes.map(signed),
        memory_swap,
        nano_cpus: cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
        pids_limit: Some(pids.map_or(DEFAULT_PIDS, i64::from)),
        blkio_weight: io_weight.map(|weight| blkio_weight(weight, cgroup_v2)),
        ..HostConfig::default()
    }
}

/// The weight of I/O as the engine has it, from 10 to 1000. In v1 the usual one is 500. For v2 the engine turns
/// 10 to 1000 into 1 to 10000, which here is done backwards.
fn blkio_weight(weight: u16, cgroup_v2: bool) -> u16 {
    const LEAST: u32 = 10;
    const MOST: u32 = 1000;
    let weight = u32::from(weight);
    let scaled = if cgroup_v2 {
        LEAST + weight.saturating_sub(1) * (MOST - LEAST) / (u32::from(MAX_IO_WEIGHT) - 1)
    } else {
        weight * 5
    };
    u16::try_from(scaled.clamp(LEAST, MOST)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_that_docker_takes() {
        for (text, expected) in [
            ("myapp", "myapp"),
            ("My App", "my-app"),
            ("web.1", "web.1"),
            ("_a__b_", "a-b"),
            ("--", "x"),
            ("v3", "v3"),
        ] {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn limits_are_the_engines() {
        let limits: Limits = "memory=512MiB,swap=0,cpu=0.5,pids=77,io=100".parse().unwrap();
        let config = limited(limits, false);
        assert_eq!((config.memory, config.memory_swap), (Some(512 << 20), Some(512 << 20)));
        assert_eq!((config.nano_cpus, config.pids_limit), (Some(500_000_000), Some(77)));
        assert_eq!(config.blkio_weight, Some(500));
        let none = limited(Limits::default(), false);
        assert_eq!((none.memory, none.memory_swap, none.pids_limit), (None, None, Some(DEFAULT_PIDS)));
        let memory = limited("memory=64MiB".parse().unwrap(), true);
        assert_eq!(memory.memory_swap, Some(-1));
        assert_eq!([1, 10_000].map(|weight| blkio_weight(weight, true)), [10, 1000]);
    }
}
