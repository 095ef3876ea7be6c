//! `hsup stack`: shows, adds and removes the stacks of this host.

use std::process;
use std::time::Duration;

use indicatif::HumanBytes;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::fatal::Fatal;
use super::{Config, ExitCode, StackCommand, output};
use crate::archive::{FetchError, UnpackError};
use crate::stack::{Entry, Kind, StackError, Stacks};
use crate::stderr::Stderr;

/// How long the last lines of the log may take.
const DRAIN: Duration = Duration::from_secs(2);

/// Where in the state dir the stacks are.
pub(super) const FOLDER: &str = "stacks";

/// Does what a command says to the stacks of this host.
pub fn stack(config: &Config, command: &StackCommand) -> process::ExitCode {
    let stderr = Stderr::new();
    crate::log::init(&config.log, stderr.clone());
    let done = run(config, command);
    stderr.flush(DRAIN);
    match done {
        Ok(Some(text)) => output::show(&text),
        Ok(None) => process::ExitCode::from(ExitCode::INTERRUPTED),
        Err(fatal) => fatal.report(),
    }
}

/// What to print; nothing if a signal ended it before.
fn run(config: &Config, command: &StackCommand) -> Result<Option<String>, Fatal> {
    let stacks = Stacks::new(config.state_dir.join(FOLDER), config.stack_manifest.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Fatal::system("start the runtime"))?;
    // The runtime is dropped here, and waits until work that was given up has removed what it had begun.
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Fatal::system("receive signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Fatal::system("receive signals"))?;
        tokio::select! {
            done = carry_out(&stacks, command) => Ok(Some(done?)),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    })
}

async fn carry_out(stacks: &Stacks, command: &StackCommand) -> Result<String, StackError> {
    Ok(match command {
        StackCommand::List { json: true } => to_json(&stacks.list()?),
        StackCommand::List { json: false } => table(&stacks.list()?),
        StackCommand::Add { id, from, checksum } => {
            stacks.add(id, from, *checksum).await?;
            format!("added stack {id}")
        }
        StackCommand::AddFromManifest { name } => {
            let added = stacks.add_from_manifest(name).await?;
            let id = added.id;
            if added.new {
                format!("added stack {id}")
            } else {
                format!("stack {id} is on this host already")
            }
        }
        StackCommand::Remove { id } => {
            stacks.remove(id).await?;
            format!("removed stack {id}")
        }
    })
}

impl From<StackError> for Fatal {
    fn from(error: StackError) -> Self {
        Self::new(exit_code(&error), &error)
    }
}

fn exit_code(error: &StackError) -> ExitCode {
    match error {
        StackError::AlreadyHere { .. } | StackError::SeveralStacks { .. } => ExitCode::Usage,
        StackError::NotFound { .. }
        | StackError::NotHere { .. }
        | StackError::NoStack
        | StackError::Manifest { .. } => ExitCode::NoSource,
        StackError::Fetch(FetchError::NotAFile { .. } | FetchError::TooLarge { .. }) => {
            ExitCode::ReleaseInvalid
        }
        StackError::Fetch(FetchError::Write { .. })
        | StackError::Unpack { source: UnpackError::Write { .. }, .. } => ExitCode::System,
        StackError::Fetch(_) => ExitCode::NoSource,
        StackError::IsDirectory { .. }
        | StackError::Checksum(_)
        | StackError::Content { .. }
        | StackError::Unpack { .. }
        | StackError::BadImage { .. }
        | StackError::NoRoot { .. }
        | StackError::TooLarge { .. } => ExitCode::ReleaseInvalid,
        StackError::InUse { .. }
        | StackError::Mount { .. }
        | StackError::Folder { .. }
        | StackError::Stage(_) => ExitCode::System,
    }
}

/// A stack in JSON.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    version: String,
    kind: String,
    bytes: u64,
    newest: bool,
    mounted: bool,
    root: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    stacks: Vec<Row>,
}

fn to_json(entries: &[Entry]) -> String {
    let row = |entry: &Entry| Row {
        name: entry.id.name.to_string(),
        version: entry.id.version.to_string(),
        kind: kind(entry.kind),
        bytes: entry.bytes,
        newest: entry.newest,
        mounted: entry.mounted,
        root: entry.root.display().to_string(),
    };
    let list = List { stacks: entries.iter().map(row).collect() };
    serde_json::to_string_pretty(&list).expect("the list is plain data")
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Directory => "directory".to_owned(),
        Kind::Image(Some(file_system)) => format!("image ({file_system})"),
        Kind::Image(None) => "image".to_owned(),
    }
}

const HEADINGS: [&str; 5] = ["NAME", "VERSION", "KIND", "SIZE", "STATE"];

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no stacks: add one with hsup stack add NAME-VERSION PATH|URL\n".to_owned();
    }
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(entries.iter().map(|entry| {
        let states = [(entry.newest, "newest"), (entry.mounted, "mounted")];
        let states: Vec<_> = states.iter().filter(|(is, _)| *is).map(|(_, state)| *state).collect();
        [
            entry.id.name.to_string(),
            entry.id.version.to_string(),
            kind(entry.kind),
            HumanBytes(entry.bytes).to_string(),
            if states.is_empty() { "-".to_owned() } else { states.join(", ") },
        ]
    }));
    super::ps_table::align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::FileSystem;

    fn entries() -> Vec<Entry> {
        let entry = |id: &str, kind, newest, mounted| Entry {
            id: id.parse().unwrap(),
            kind,
            bytes: 3 << 20,
            newest,
            mounted,
            root: format!("/s/{id}").into(),
        };
        vec![
            entry("heroku-24-v9", Kind::Directory, false, false),
            entry("heroku-24-v10", Kind::Image(Some(FileSystem::Squashfs)), true, true),
        ]
    }

    #[test]
    fn the_table_is_aligned() {
        let expected = "\
NAME       VERSION  KIND              SIZE      STATE
heroku-24  v9       directory         3.00 MiB  -
heroku-24  v10      image (squashfs)  3.00 MiB  newest, mounted
";
        assert_eq!(table(&entries()), expected);
        assert!(table(&[]).contains("hsup stack add"));
    }

    #[test]
    fn the_json_has_every_column() {
        let list: serde_json::Value = serde_json::from_str(&to_json(&entries())).unwrap();
        let expected = serde_json::json!({
            "Name": "heroku-24", "Version": "v10", "Kind": "image (squashfs)", "Bytes": 3 << 20, "Newest": true,
            "Mounted": true, "Root": "/s/heroku-24-v10",
        });
        assert_eq!(list["Stacks"][1], expected);
    }
}
