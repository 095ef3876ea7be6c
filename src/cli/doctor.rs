//! `hsup doctor`: what hsups that were killed have left on this host, and with `--fix` no more of it; and what of the
//! host's settings is in the way of dynos.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process;

use hsup_drivers::native::doctor::{hints, look, mend};
use hsup_drivers::native::network::Obstacle;
use hsup_drivers::native::reconcile::{Finding, State};
use serde_json::json;

use super::{Config, ExitCode};

/// Looks, or mends.
pub fn doctor(config: &Config, fix: bool, json: bool) -> process::ExitCode {
    let findings = if fix { mend(&config.state_dir) } else { look(&config.state_dir) };
    let hints = hints();
    let text = if json { as_json(&findings, &hints) } else { as_text(&findings, &hints, fix) };
    let _reader_is_gone = writeln!(io::stdout(), "{}", text.trim_end());
    let left = findings.iter().any(|finding| match finding.state {
        State::Found | State::Kept(_) => true,
        State::Mended => false,
    });
    if left { ExitCode::LeftBehind.into() } else { ExitCode::Ok.into() }
}

fn as_text(findings: &[Finding], hints: &[Obstacle], fix: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let _to_a_string = writeln!(text, "{finding}");
    }
    match (findings.is_empty(), fix) {
        (true, _) => text.push_str("nothing is left behind\n"),
        (false, true) => {}
        (false, false) => {
            text.push_str("`hsup doctor --fix` removes it, as the next start of hsup does\n");
        }
    }
    for hint in hints {
        let _to_a_string = writeln!(text, "hint: {hint}");
    }
    text
}

fn as_json(findings: &[Finding], hints: &[Obstacle]) -> String {
    let one = |Finding { what, place, state }: &Finding| {
        let (state, why) = match state {
            State::Found => ("found", None),
            State::Mended => ("mended", None),
            State::Kept(why) => ("kept", Some(why)),
        };
        json!({"What": what.to_string(), "Place": place, "State": state, "Why": why})
    };
    let findings: Vec<_> = findings.iter().map(one).collect();
    let hints: Vec<_> = hints.iter().map(ToString::to_string).collect();
    json!({"Findings": findings, "Hints": hints}).to_string()
}
