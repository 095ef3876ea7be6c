//! The command line: flags and variables become a checked [`Config`], or a list of all that is wrong; each
//! command then has a file of its own.

mod args;
mod check;
mod clients;
mod config;
mod docker;
mod doctor;
mod driver;
mod events;
mod exit_code;
mod explain;
mod fatal;
mod generate;
mod inherited;
mod logs;
mod logs_client;
mod manager;
mod native;
mod obedience;
mod output;
mod parse;
mod plan;
mod ps_table;
mod rollout;
mod running;
mod settings;
mod socket;
mod source_choice;
mod stacks;
mod supervise;
mod terminal;

pub use args::command;
pub use check::check;
pub use clients::ask;
pub use config::{
    CliCommand, CliError, ClientRequest, Config, DriverKind, DynoTargets, Invocation, StackCommand,
    UnknownDriver,
};
pub use docker::DockerConfig;
pub use doctor::doctor;
pub use events::events;
pub use exit_code::{ExitCode, TABLE};
pub use generate::man;
pub use logs_client::logs;
pub use native::NativeConfig;
pub use output::show;
pub use parse::{Surroundings, parse, parse_process};
pub use settings::Problem;
pub use socket::{FindError, MAX_SOCKET_PATH, SocketChoice, UNNAMED_APP, default_socket, find_running};
pub use source_choice::{Running, SourceChoice};
pub use stacks::stack;
pub use supervise::supervise;
