//! `hsup completions` and `hsup man`: what is made from the grammar of the command line, and from nothing else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process;

use clap_complete::aot::{Bash, Fish, Zsh, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::fatal::Fatal;
use super::{ExitCode, TABLE, command};

/// The completions of a shell: one of those that the grammar allows.
pub(super) fn completions(shell: &str) -> String {
    let (mut hsup, mut script) = (command(), Vec::new());
    match shell {
        "zsh" => generate(Zsh, &mut hsup, "hsup", &mut script),
        "fish" => generate(Fish, &mut hsup, "hsup", &mut script),
        _ => generate(Bash, &mut hsup, "hsup", &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// `hsup man`: writes `hsup.1`, and a page for each command.
pub fn man(dir: &Path) -> process::ExitCode {
    match write_pages(dir) {
        Ok(()) => ExitCode::Ok.into(),
        Err(error) => {
            let text = format!("hsup man: cannot write to {}: {error}: name a directory", dir.display());
            Fatal::usage(text).report()
        }
    }
}

fn write_pages(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // The options of all commands are told once, in the page of hsup itself.
    let of_all: Vec<clap::Id> = command().get_arguments().map(|arg| arg.get_id().clone()).collect();
    let hsup = command().mut_subcommands(|sub| sub.disable_help_subcommand(true));
    let mut hsup = hsup.disable_help_subcommand(true);
    hsup.build();
    write_page(dir, hsup.clone())?;
    write_pages_below(dir, &hsup, &of_all)
}

/// The pages of a command's own commands, and of theirs.
fn write_pages_below(dir: &Path, command: &clap::Command, of_all: &[clap::Id]) -> io::Result<()> {
    for sub in command.get_subcommands() {
        let page = sub.clone().mut_args(|arg| {
            let hide = of_all.contains(arg.get_id());
            arg.hide(hide)
        });
        write_page(dir, page.after_help("Options of every command: see hsup(1)."))?;
        write_pages_below(dir, sub, of_all)?;
    }
    Ok(())
}

fn write_page(dir: &Path, command: clap::Command) -> io::Result<()> {
    let whole = command.get_name() == "hsup";
    // `hsup-ps`, where the command is `ps` of `hsup`
    let name = command.get_display_name().unwrap_or("hsup");
    let path = dir.join(format!("{name}.1"));
    let mut file = File::create(path)?;
    // No date: the same source gives the same page.
    Man::new(command)
        .date("")
        .manual("hsup")
        .source(concat!("hsup ", env!("CARGO_PKG_VERSION")))
        .render(&mut file)?;
    if whole {
        exit_status().to_writer(&mut file)?;
    }
    file.flush()
}

fn exit_status() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    for (number, meaning) in TABLE {
        section.control("TP", []);
        section.text([roman(number.to_string())]);
        section.text([roman(meaning)]);
    }
    section.text([roman("run and start --oneshot end with the code of a dyno, 128 + n for signal n.")]);
    section
}
