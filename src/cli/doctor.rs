//! `hsup doctor`: what hsups that were killed have left on this host, running too, and with `--fix` no more of it; and what
//! of the host's settings is in the way of dynos.

use std::fmt::Write as _;
use std::process;

use hsup_drivers::finding::{Finding, State};
use hsup_drivers::{ledger, native};
use nix::unistd::geteuid;
use serde_json::json;

use super::{Config, ExitCode, output};

/// What is said to whoever is not root.
const NOT_ROOT: &str =
    "what native dynos have left is root's to see and to remove: run `hsup doctor` as root";

/// Looks, or mends.
pub fn doctor(config: &Config, fix: bool, json: bool) -> process::ExitCode {
    let dir = &config.state_dir;
    // Processes first: they may use the rest.
    let findings = if fix {
        [ledger::mend(dir), native::doctor::mend(dir)].concat()
    } else {
        [ledger::look(dir), native::doctor::look(dir)].concat()
    };
    let hints = native::doctor::hints().into_iter().map(|obstacle| obstacle.to_string());
    let hints: Vec<_> = hints.chain((!geteuid().is_root()).then(|| NOT_ROOT.to_owned())).collect();
    let text = if json { as_json(&findings, &hints) } else { as_text(&findings, &hints, fix) };
    if let Err(fatal) = output::print(&text) {
        return fatal.report();
    }
    let left = findings.iter().any(|finding| match finding.state {
        State::Found | State::Kept(_) => true,
        State::Mended => false,
    });
    if left { ExitCode::LeftBehind.into() } else { ExitCode::Ok.into() }
}

fn as_text(findings: &[Finding], hints: &[String], fix: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let _to_a_string = writeln!(text, "{finding}");
    }
    if findings.is_empty() {
        text.push_str("nothing is left behind\n");
    } else if !fix && findings.iter().any(|finding| finding.state == State::Found) {
        text.push_str("`hsup doctor --fix` removes it, as the next start of hsup does\n");
    }
    for hint in hints {
        let _to_a_string = writeln!(text, "hint: {hint}");
    }
    text
}

fn as_json(findings: &[Finding], hints: &[String]) -> String {
    let one = |Finding { what, place, state }: &Finding| {
        let (state, why) = match state {
            State::Found => ("found", None),
            State::Mended => ("mended", None),
            State::Kept(why) => ("kept", Some(why)),
        };
        json!({"What": what.to_string(), "Place": place, "State": state, "Why": why})
    };
    let findings: Vec<_> = findings.iter().map(one).collect();
    json!({"Findings": findings, "Hints": hints}).to_string()
}
