//! Runs a command with a Docker Engine of its own: `engine cargo test ...`. The command runs in the network of the
//! engine, where there is nothing but loopback and what the engine makes; `DOCKER_HOST` names the engine.

use std::env;
use std::process::{Command, ExitCode};

use hsup_ftest::Engine;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if args.is_empty() {
        eprintln!("engine: name a command to run with a Docker Engine");
        return ExitCode::from(64);
    }
    let engine = Engine::start();
    let words = engine.namespaces().enter(&env::current_dir().expect("there is a current directory"));
    let (program, through) = words.split_first().expect("there is nsenter");
    let status = Command::new(program).args(through).args(args).env("DOCKER_HOST", engine.host()).status();
    let code = status.expect("there is nsenter").code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
