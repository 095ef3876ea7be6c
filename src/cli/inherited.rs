//! What the dynos of a Procfile get of the environment that hsup was started in: a developer's shell is part of
//! their set-up. Sources that serve an operator's host hand on nothing.

use std::env;

use crate::model::ConfigVars;

/// What concerns hsup itself: its settings, its secrets and what systemd told it.
const OWN: &[&str] = &[
    "CREDENTIALS_DIRECTORY",
    "DYNO",
    "FDSTORE",
    "HEROKU_ACCESS_TOKEN",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How the names of hsup's own settings begin.
const OWN_PREFIXES: &[&str] = &["HSUP_", "LIBCONTAINER_", "DOCKER_"];

/// The variables of this process that are not hsup's own. One that no release could have is left out.
pub(super) fn inherited_vars() -> ConfigVars {
    let own = |name: &str| OWN.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let mut vars = ConfigVars::default();
    for (name, value) in env::vars_os() {
        let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else { continue };
        if own(&name) {
            continue;
        }
        if let Err(error) = name.parse().and_then(|name| vars.set(name, value)) {
            tracing::warn!("a variable of the environment is not handed on: {error}");
        }
    }
    vars
}
