//! `hsup ps` and `hsup stop`: clients of the control API of a running hsup.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process;
use std::time::SystemTime;

use super::fatal::Fatal;
use super::{Config, ExitCode, StopTargets, find_running, ps_table};
use crate::control::wire::{StatusResponse, StopRequest, StopResponse};
use crate::control::{Client, ClientError};
use crate::model::Target;

/// `hsup ps`: shows the dynos of a running hsup.
pub fn ps(config: &Config, json: bool) -> process::ExitCode {
    talk(config, async |client| {
        let status: StatusResponse = client.get_json("/status").await?;
        Ok(if json { to_json(&status) } else { ps_table::table(&status, SystemTime::now()) })
    })
}

/// `hsup stop`: stops dynos of a running hsup, and returns when all their processes are gone.
pub fn stop(config: &Config, targets: &StopTargets, json: bool) -> process::ExitCode {
    talk(config, async |client| {
        let status: StatusResponse = client.get_json("/status").await?;
        let types: BTreeSet<String> = status.processes.keys().map(ToString::to_string).collect();
        let processes = match targets {
            StopTargets::All => types.into_iter().collect(),
            StopTargets::Named(targets) => {
                let known = |target: &Target| status.dynos.iter().any(|dyno| target.covers(&dyno.name));
                if let Some(unknown) = targets.iter().find(|target| !known(target)) {
                    return Err(unknown_target(unknown, &types));
                }
                targets.iter().map(ToString::to_string).collect()
            }
        };
        let request = StopRequest { processes };
        let response: StopResponse = client.post_json("/control/stop", &request).await?;
        Ok(match response.stopped_processes.as_slice() {
            _ if json => to_json(&response),
            [] => format!("nothing to stop: no dyno of {} is running", request.processes.join(", ")),
            stopped => format!("stopped: {}", stopped.join(", ")),
        })
    })
}

/// A name that nothing has is a slip of the finger, and a script must not believe that it has stopped something.
fn unknown_target(target: &Target, types: &BTreeSet<String>) -> Fatal {
    let known = types.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "there are none".to_owned() } else { format!("there are: {known}") };
    Fatal::usage(format!("no dyno is called {target}; {known}"))
}

/// The API said no, or nothing.
impl From<ClientError> for Fatal {
    fn from(error: ClientError) -> Self {
        Self::new(ExitCode::NotRunning, &error)
    }
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("the API's types are plain data")
}

/// Finds the hsup that is meant, talks to it and prints what comes of it.
fn talk(config: &Config, talk: impl AsyncFnOnce(Client) -> Result<String, Fatal>) -> process::ExitCode {
    talk_to(config, async |client| {
        let text = talk(client).await?;
        let _reader_is_gone = writeln!(io::stdout(), "{}", text.trim_end());
        Ok(ExitCode::Ok.into())
    })
}

/// Finds the hsup that is meant and talks to it.
pub(super) fn talk_to(
    config: &Config,
    talk: impl AsyncFnOnce(Client) -> Result<process::ExitCode, Fatal>,
) -> process::ExitCode {
    let found = find_running(&config.control_socket, config.app.as_ref(), config.runtime_dir.as_deref());
    let path = match found {
        Ok(path) => path,
        Err(error) => return Fatal::new(error.exit_code(), &error).report(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Fatal::system("start the runtime")(error).report(),
    };
    runtime.block_on(talk(Client::new(path))).unwrap_or_else(|fatal| fatal.report())
}
