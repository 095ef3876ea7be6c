//! `hsup`: reads the command line and hands over to the command; or, in a container of the docker driver, to its entry.

use std::env;
use std::process::ExitCode;

use hsup::cli::{self, CliCommand, Invocation};
use hsup::systemd;
use hsup_drivers::docker::entry;

fn main() -> ExitCode {
    // What hsup executes itself as when its zygote has been killed.
    if let Some(code) = hsup_drivers::native::live_as_zygote() {
        return code;
    }
    if entry::is_called(env::args_os().next().as_deref()) {
        return entry::run();
    }
    match cli::parse_process() {
        Ok(Invocation::Print(text)) => cli::show(&text),
        Ok(Invocation::Command(config)) => match &config.command {
            CliCommand::Start { .. } | CliCommand::Run { .. } | CliCommand::Build => cli::supervise(*config),
            CliCommand::Client { request, json } => cli::ask(&config, request, *json),
            CliCommand::Logs(query) => cli::logs(&config, query),
            CliCommand::Events { query, json } => cli::events(&config, query, *json),
            CliCommand::Check { file, json } => cli::check(&config, file, *json),
            CliCommand::Doctor { fix, json } => cli::doctor(&config, *fix, *json),
            CliCommand::Stack(command) => cli::stack(&config, command),
            CliCommand::Man { dir } => cli::man(dir),
        },
        Err(error) => {
            systemd::say(&error.to_string());
            error.exit_code().into()
        }
    }
}
