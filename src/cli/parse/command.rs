//! The arguments of each command, checked.

use std::ffi::OsStr;

use super::super::args::{CommandArgs, StackArgs};
use super::super::events;
use super::super::logs::{self, LogsFlags};
use super::super::settings::{Reader, not_empty};
use super::super::{CliCommand, ClientRequest, DynoTargets, StackCommand};
use super::Surroundings;
use crate::model::{ProcessType, QuantityOverride, ScaleChange, Target};
use crate::stack::{InvalidLocation, StackLocation};

/// The command with its arguments checked; none where there is a problem with them.
pub(super) fn read_command(
    reader: &mut Reader<'_>,
    command: CommandArgs,
    has_manifest: bool,
    surroundings: &Surroundings<'_>,
) -> Option<CliCommand> {
    match command {
        CommandArgs::Start { quantities } => {
            let quantities: Vec<_> =
                quantities.iter().map(|given| reader.keep("start", read_quantity(given))).collect();
            let quantities = quantities.into_iter().flatten().collect();
            Some(CliCommand::Start { quantities })
        }
        CommandArgs::Run { live: _, command } => {
            reader.keep("run", command.try_into()).map(|command| CliCommand::Run { command })
        }
        CommandArgs::Build => Some(CliCommand::Build),
        CommandArgs::Ps { watch, json } => {
            Some(CliCommand::Client { request: ClientRequest::Ps { watch }, json })
        }
        CommandArgs::Plan { file, json } => {
            let file = reader.keep("plan", not_empty(&file))?;
            Some(CliCommand::Client { request: ClientRequest::Plan(file), json })
        }
        CommandArgs::Config { show, json } => {
            Some(CliCommand::Client { request: ClientRequest::Config { show }, json })
        }
        CommandArgs::Stop { targets, all, json } => {
            let targets = read_targets(reader, "stop", &targets, all)?;
            Some(CliCommand::Client { request: ClientRequest::Stop(targets), json })
        }
        CommandArgs::Explain { dyno, json } => {
            let dyno = reader.keep("explain", dyno.parse())?;
            Some(CliCommand::Client { request: ClientRequest::Explain(dyno), json })
        }
        CommandArgs::Restart { targets, all, json } => {
            let targets = read_targets(reader, "restart", &targets, all)?;
            Some(CliCommand::Client { request: ClientRequest::Restart(targets), json })
        }
        CommandArgs::Scale { changes, json } => {
            let changes: Vec<_> =
                changes.iter().map(|given| reader.keep("scale", given.parse::<ScaleChange>())).collect();
            let request = ClientRequest::Scale(changes.into_iter().flatten().collect());
            Some(CliCommand::Client { request, json })
        }
        CommandArgs::Releases { json } => Some(CliCommand::Client { request: ClientRequest::Releases, json }),
        CommandArgs::Rollback { release, json } => {
            let release = match release {
                Some(given) => Some(reader.keep("rollback", given.parse())?),
                None => None,
            };
            Some(CliCommand::Client { request: ClientRequest::Rollback(release), json })
        }
        CommandArgs::Logs { dyno, num, follow, since, json } => {
            logs::read_query(reader, LogsFlags { dyno, num, follow, since, json }).map(CliCommand::Logs)
        }
        CommandArgs::Events(flags) => {
            events::read_events(reader, &flags).map(|(query, json)| CliCommand::Events { query, json })
        }
        CommandArgs::Doctor { fix, json } => Some(CliCommand::Doctor { fix, json }),
        CommandArgs::Check { file, json } => {
            reader.keep("check", not_empty(&file)).map(|file| CliCommand::Check { file, json })
        }
        CommandArgs::Stack { command } => {
            read_stack_command(reader, command, has_manifest, surroundings).map(CliCommand::Stack)
        }
        CommandArgs::Man { dir } => reader.keep("man", not_empty(&dir)).map(|dir| CliCommand::Man { dir }),
        CommandArgs::Completions { .. } | CommandArgs::Version => None,
    }
}

fn read_stack_command(
    reader: &mut Reader<'_>,
    command: StackArgs,
    has_manifest: bool,
    surroundings: &Surroundings<'_>,
) -> Option<StackCommand> {
    match command {
        StackArgs::List { json } => Some(StackCommand::List { json }),
        StackArgs::Add { name, from: None, checksum: _ } => {
            let name = reader.keep("stack add", name.parse());
            let source = has_manifest.then_some(()).ok_or(
                "name a file or URL to add the stack from, or with --stack-manifest a manifest that has it",
            );
            reader.keep("stack add", source)?;
            Some(StackCommand::AddFromManifest { name: name? })
        }
        StackArgs::Add { name, from: Some(from), checksum } => {
            let id = reader.keep("stack add", name.parse());
            let checksum = checksum.map(|given| reader.keep("--checksum", given.parse()));
            let from = reader.keep("stack add", read_location(&from))?.below(&surroundings.directory);
            let checksum = match checksum {
                Some(checksum) => Some(checksum?),
                None => None,
            };
            Some(StackCommand::Add { id: id?, from, checksum })
        }
        StackArgs::Remove { name } => {
            reader.keep("stack remove", name.parse()).map(|id| StackCommand::Remove { id })
        }
    }
}

/// Reads a location; a path need not be UTF-8.
fn read_location(given: &OsStr) -> Result<StackLocation, String> {
    match given.to_str() {
        Some(text) => text.parse().map_err(|error: InvalidLocation| error.to_string()),
        None => Ok(StackLocation::Path(given.into())),
    }
}

/// The dynos that are meant: never none.
fn read_targets(
    reader: &mut Reader<'_>,
    command: &'static str,
    given: &[String],
    all: bool,
) -> Option<DynoTargets> {
    let named: Vec<_> = given.iter().map(|given| reader.keep(command, given.parse::<Target>())).collect();
    let named: Vec<_> = named.into_iter().flatten().collect();
    let targets = match (given.is_empty(), all) {
        (false, false) => Ok(DynoTargets::Named(named)),
        (true, true) => Ok(DynoTargets::All),
        (false, true) => Err("--all means every dyno: give --all or names, not both".to_owned()),
        (true, false) => Err(format!(
            "name what to {command}, dynos (web.1) or process types (web), or give --all for every dyno"
        )),
    };
    reader.keep(command, targets)
}

fn read_quantity(given: &str) -> Result<QuantityOverride, String> {
    let quantity: QuantityOverride = given.parse().map_err(|error| format!("argument {given:?}: {error}"))?;
    if quantity.process_type == ProcessType::run() {
        return Err(format!("argument {given:?}: \"run\" is kept for one-off dynos: use hsup run CMD"));
    }
    Ok(quantity)
}
