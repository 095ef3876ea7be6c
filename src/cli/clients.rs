//! The commands that are clients of the control API of a running hsup: `ps`, `stop`, `restart` and others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process;
use std::time::{Duration, SystemTime};

use hsup_drivers::sys;

use super::check;
use super::explain::explain;
use super::fatal::Fatal;
use super::plan::plan;
use super::{ClientRequest, Config, DynoTargets, ExitCode, find_running, output, ps_table};
use crate::control::wire::{
    ConfigResponse, ConfigValues, LiveResponse, PlanResponse, ReleasesResponse, RestartRequest,
    RestartResponse, RollbackRequest, RollbackResponse, ScaleRequest, StatusResponse, StopRequest,
    StopResponse, Version,
};
use crate::control::{Client, ClientError};
use crate::model::{AppName, ScaleChange, Target};
use crate::sources::control_file;

/// How often `ps --watch` looks: what people can follow.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Puts the cursor of a terminal into its corner, and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What there is to say where all dynos are meant.
const NO_DYNOS: &str = "there are no dynos";

/// Asks a running hsup, and prints what it answers.
pub fn ask(config: &Config, request: &ClientRequest, json: bool) -> process::ExitCode {
    talk(config, async |client| match request {
        ClientRequest::Ps { watch: false } => {
            let status: StatusResponse = client.get_json("/status").await?;
            Ok(if json { to_json(&status) } else { ps_table::table(&status, SystemTime::now()) })
        }
        ClientRequest::Ps { watch: true } => watch(&client, json).await,
        ClientRequest::Plan(file) => {
            let file = read_control_file(config, file)?;
            let response: PlanResponse = client.post("/plan", file).await?;
            Ok(if json { to_json(&response) } else { plan(&response) })
        }
        ClientRequest::Config { show } => config_vars(&client, *show, json).await,
        ClientRequest::Explain(name) => {
            let status: StatusResponse = client.get_json("/status").await?;
            let Some(dyno) = status.dynos.iter().find(|dyno| dyno.name == *name) else {
                let names = status.dynos.iter().map(|dyno| dyno.name.to_string()).collect();
                return Err(unknown_target(&Target::Dyno(name.clone()), &names));
            };
            Ok(if json { to_json(dyno) } else { explain(dyno, SystemTime::now()) })
        }
        ClientRequest::Stop(targets) => stop(&client, targets, json).await,
        ClientRequest::Restart(targets) => restart(&client, targets, json).await,
        ClientRequest::Scale(changes) => scale(&client, changes, json).await,
        ClientRequest::Releases => {
            let releases: ReleasesResponse = client.get_json("/releases").await?;
            Ok(if json { to_json(&releases) } else { releases_table(&releases) })
        }
        ClientRequest::Rollback(release) => {
            let request = RollbackRequest { release: release.map(Version) };
            let response: RollbackResponse = client.post_json("/control/rollback", &request).await?;
            let text =
                format!("going back to release {}: hsup ps shows how it comes along", response.release);
            Ok(if json { to_json(&response) } else { text })
        }
    })
}

/// A control file that is valid, as it stands there: what is wrong with it is said as by `check`.
fn read_control_file(config: &Config, file: &Path) -> Result<Vec<u8>, Fatal> {
    let name = file.display();
    let bytes = check::read(file);
    let bytes = bytes.map_err(|error| Fatal::unreadable(format!("failed to read {name}: {error}")))?;
    let app = config.app.clone().unwrap_or_else(AppName::unnamed);
    let parsed = control_file::parse(&bytes, &app).map_err(Fatal::invalid)?;
    for warning in parsed.warnings {
        let _nobody_listens = writeln!(io::stderr(), "{name}: warning: {warning}");
    }
    Ok(bytes)
}

/// The config vars, a line each.
async fn config_vars(client: &Client, show: bool, json: bool) -> Result<String, Fatal> {
    if !show {
        let config: ConfigResponse = client.get_json("/config").await?;
        return Ok(if json { to_json(&config) } else { config.names.join("\n") });
    }
    let live: LiveResponse = client.get_json("/release").await?;
    let parsed = control_file::parse(live.release.get().as_bytes(), &AppName::unnamed());
    let release = parsed.map_err(Fatal::invalid)?.release;
    let vars = release.config.iter();
    let config = vars.map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
    let values = ConfigValues { release: Version(release.version), config };
    if json {
        return Ok(to_json(&values));
    }
    let lines = values.config.iter().map(|(name, value)| format!("{name}={value}"));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Shows the dynos until nobody looks any more: at a terminal each second, on a pipe whenever something has changed
/// beside the time that passes.
async fn watch(client: &Client, json: bool) -> Result<String, Fatal> {
    let at_terminal = io::stdout().is_terminal();
    let mut shown = None;
    loop {
        let status: StatusResponse = client.get_json("/status").await?;
        let text = match json {
            true => serde_json::to_string(&status).expect("the API's types are plain data") + "\n",
            false => ps_table::table(&status, SystemTime::now()),
        };
        let settled = ps_table::without_passing_time(status);
        if at_terminal || shown.as_ref() != Some(&settled) {
            let mut out = io::stdout().lock();
            let text = if at_terminal && !json { screen(&out, &text) } else { text };
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            if written.is_err() {
                return output::finish(written).map(|()| String::new());
            }
        }
        shown = Some(settled);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// What makes a terminal show a text and nothing else, as far as its window goes: of a row that wraps, or a line too many,
/// the beginning would be scrolled away.
fn screen(terminal: &impl AsFd, text: &str) -> String {
    let shown = match sys::window_size(terminal.as_fd()) {
        Ok(window) if window.ws_col > 0 && window.ws_row > 0 => {
            ps_table::fit(text, window.ws_col.into(), window.ws_row.into())
        }
        Ok(_) | Err(_) => text.to_owned(),
    };
    format!("{CLEAR}{shown}")
}

/// Stops dynos, and returns when all their processes are gone.
async fn stop(client: &Client, targets: &DynoTargets, json: bool) -> Result<String, Fatal> {
    let request = StopRequest { processes: named(client, targets).await? };
    let response: StopResponse = client.wait_for("/control/stop", &request).await?;
    Ok(match response.stopped_processes.as_slice() {
        _ if json => to_json(&response),
        [] if request.processes.is_empty() => NO_DYNOS.to_owned(),
        [] => format!("nothing to stop: no dyno of {} is running", request.processes.join(", ")),
        stopped => format!("stopped: {}", counted(stopped)),
    })
}

/// Each name once, with how many dynos have answered to it: there is an entry for each dyno of a type.
fn counted(names: &[String]) -> String {
    let of_each = names.chunk_by(|one, other| one == other).map(|same| match same {
        [name] => name.clone(),
        [name, ..] => format!("{name} ({} dynos)", same.len()),
        [] => String::new(),
    });
    of_each.collect::<Vec<_>>().join(", ")
}

async fn restart(client: &Client, targets: &DynoTargets, json: bool) -> Result<String, Fatal> {
    let rolling = *targets == DynoTargets::All;
    let request = RestartRequest { processes: named(client, targets).await?, rolling };
    let response: RestartResponse = client.post_json("/control/restart", &request).await?;
    let names: Vec<String> = response.restarted_processes.iter().map(ToString::to_string).collect();
    Ok(match names.as_slice() {
        _ if json => to_json(&response),
        [] if request.processes.is_empty() => NO_DYNOS.to_owned(),
        [] => format!("nothing to restart: the formation has no dyno of {}", request.processes.join(", ")),
        names => format!("restarting: {}", names.join(", ")),
    })
}

/// The process types and dynos that are meant, all of which there are.
async fn named(client: &Client, targets: &DynoTargets) -> Result<Vec<String>, Fatal> {
    let status: StatusResponse = client.get_json("/status").await?;
    let types: BTreeSet<String> = status.processes.keys().map(ToString::to_string).collect();
    match targets {
        DynoTargets::All => Ok(types.into_iter().collect()),
        DynoTargets::Named(targets) => {
            let known = |target: &Target| status.dynos.iter().any(|dyno| target.covers(&dyno.name));
            match targets.iter().find(|target| !known(target)) {
                Some(unknown) => Err(unknown_target(unknown, &types)),
                None => Ok(targets.iter().map(ToString::to_string).collect()),
            }
        }
    }
}

/// Runs other numbers of dynos; without changes it tells how many there are.
async fn scale(client: &Client, changes: &[ScaleChange], json: bool) -> Result<String, Fatal> {
    let status: StatusResponse = client.get_json("/status").await?;
    let mut quantities = status.formation;
    let mut wanted = BTreeMap::new();
    for change in changes {
        let Some(quantity) = quantities.get_mut(&change.process_type) else {
            let types = quantities.keys().map(ToString::to_string).collect();
            return Err(unknown_target(&Target::Type(change.process_type.clone()), &types));
        };
        *quantity = change.of(*quantity);
        wanted.insert(change.process_type.clone(), *quantity);
    }
    if !wanted.is_empty() {
        let _echo: ScaleRequest =
            client.post_json("/control/scale", &ScaleRequest { quantities: wanted }).await?;
    }
    let text = quantities.iter().map(|(name, quantity)| format!("{name}={quantity}"));
    let text = text.collect::<Vec<_>>().join(" ");
    Ok(if json { to_json(&ScaleRequest { quantities }) } else { text })
}

fn releases_table(response: &ReleasesResponse) -> String {
    if response.releases.is_empty() {
        return "no release has come yet\n".to_owned();
    }
    let mut rows = vec![["RELEASE", "STATUS", "SINCE", "SLUG", "WHY"].map(str::to_owned)];
    for entry in &response.releases {
        let status = if entry.live { format!("live, {}", entry.status) } else { entry.status.clone() };
        let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let (slug, why) = (or_nothing(&entry.slug), or_nothing(&entry.why));
        rows.push([entry.version.to_string(), status, entry.at.to_string(), slug, why]);
    }
    ps_table::align(&rows)
}

/// A name that nothing has is a slip of the finger, and a script must not believe that it has stopped something.
fn unknown_target(target: &Target, types: &BTreeSet<String>) -> Fatal {
    Fatal::usage(no_such(target, types))
}

/// Warns of names that no dyno has, of which there will hardly be lines or events. Those of one that is gone are there still.
pub(super) async fn warn_of_unknown(client: &Client, targets: &[Target]) -> Result<(), ClientError> {
    if targets.is_empty() {
        return Ok(());
    }
    let status: StatusResponse = client.get_json("/status").await?;
    let types: BTreeSet<String> =
        status.processes.keys().chain(status.formation.keys()).map(ToString::to_string).collect();
    let known = |target: &Target| {
        types.contains(&target.to_string()) || status.dynos.iter().any(|dyno| target.covers(&dyno.name))
    };
    for target in targets.iter().filter(|target| !known(target)) {
        let _nobody_listens = writeln!(io::stderr(), "hsup: warning: {}", no_such(target, &types));
    }
    Ok(())
}

/// Says that no dyno has this name, and which process types there are.
fn no_such(target: &Target, types: &BTreeSet<String>) -> String {
    let known = types.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "there are none".to_owned() } else { format!("there are: {known}") };
    format!("no dyno is called {target}; {known}")
}

/// The API said no, or nothing.
impl From<ClientError> for Fatal {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::PermissionDenied { .. } => ExitCode::NotPermitted,
            ClientError::Refused { status, .. } => of_refusal(*status),
            ClientError::NoSocket { .. }
            | ClientError::Stale { .. }
            | ClientError::NotASocket { .. }
            | ClientError::Connect { .. }
            | ClientError::Silent { .. }
            | ClientError::Broken { .. }
            | ClientError::Unexpected { .. } => ExitCode::NotRunning,
        };
        Self::new(code, &error)
    }
}

/// What the status of a refusal means: something is wrong with what is asked, with who asks, with what there is, or hsup
/// has no time for it.
fn of_refusal(status: u16) -> ExitCode {
    match status {
        403 => ExitCode::NotPermitted,
        409 => ExitCode::ReleaseInvalid,
        408 | 500.. => ExitCode::NotRunning,
        _ => ExitCode::Usage,
    }
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("the API's types are plain data")
}

/// Finds the hsup that is meant, talks to it and prints what comes of it.
fn talk(config: &Config, talk: impl AsyncFnOnce(Client) -> Result<String, Fatal>) -> process::ExitCode {
    talk_to(config, async |client| {
        let text = talk(client).await?;
        if !text.is_empty() {
            output::print(&text)?;
        }
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
