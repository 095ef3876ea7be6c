//! What a test's hsups have with the engine, as Docker's own command tells it.

use std::fs;

use serde_json::Value;

use crate::engine::docker;
use crate::room::Room;

impl Room {
    /// The containers of this place's hsups, of which one may be asked for by its dyno; those that have ended too.
    pub fn containers(&self, host: &str, dyno: Option<&str>) -> Vec<String> {
        let Some(own) = self.label("hsup.state") else { return Vec::new() };
        let of_dyno = dyno.map(|dyno| format!("label=hsup.dyno={dyno}"));
        let mut args = vec!["ps", "--all", "--quiet", "--no-trunc", "--filter", &own];
        if let Some(of_dyno) = &of_dyno {
            args.extend(["--filter", of_dyno]);
        }
        docker(host, &args).lines().map(str::to_owned).collect()
    }

    /// The images of this place's releases.
    pub fn images(&self, host: &str) -> Vec<String> {
        let Some(own) = self.label("hsup.image.state") else { return Vec::new() };
        let listed = docker(host, &["images", "--quiet", "--no-trunc", "--filter", &own]);
        listed.lines().map(str::to_owned).collect()
    }

    /// A label with the name of this place's state dir.
    fn label(&self, label: &str) -> Option<String> {
        let name = fs::read_to_string(self.path("state/docker-state")).ok()?;
        Some(format!("label={label}={name}"))
    }
}

/// All that the engine tells of a container or an image.
///
/// # Panics
/// If there is none.
pub fn inspect(host: &str, id: &str) -> Value {
    let text = docker(host, &["inspect", id]);
    let list: Value = serde_json::from_str(&text).expect("docker prints JSON");
    list[0].clone()
}
