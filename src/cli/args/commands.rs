//! The words of the commands and their own arguments, as raw text.

use std::ffi::OsString;

use crate::cli::events::EventsFlags;

/// The commands and their own arguments.
#[derive(clap::Subcommand)]
pub(in crate::cli) enum CommandArgs {
    /// Keep the dynos of the formation running
    Start {
        /// How many dynos of a type to run here; TYPE alone means one, a type that is not named has none
        /// [default: what the release says]
        #[arg(value_name = "TYPE=N")]
        quantities: Vec<String>,
    },
    /// Run a one-off dyno, and end with its exit code
    ///
    /// Its release is that of the source, as for start; where no source is chosen, or with --live, that of the hsup which
    /// is running (-a, -s, or the only one there is): the same slug, config vars and driver, without asking the source.
    Run {
        /// Run inside the live release of the running hsup, whatever source is chosen
        #[arg(long)]
        live: bool,
        /// The command: one argument is a shell command line, several are its words. Options of hsup stand
        /// before it
        #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Prepare the release, and start nothing
    Build,
    /// Show the dynos of a running hsup
    #[command(visible_alias = "status")]
    Ps {
        /// Show it anew each second, or on a pipe whenever it has changed, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop dynos of a running hsup, until another release, `hsup restart` or a new start of hsup; when all have been
    /// stopped, hsup ends
    Stop {
        /// The dynos (web.1) or process types (web) to stop
        #[arg(value_name = "DYNO|TYPE")]
        targets: Vec<String>,
        /// Stop every dyno
        #[arg(long)]
        all: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain how a dyno is: why it died, what happens next, and when
    Explain {
        /// The dyno
        #[arg(value_name = "DYNO")]
        dyno: String,
        /// Write JSON: its entry of the status
        #[arg(long)]
        json: bool,
    },
    /// Restart dynos of a running hsup, and start those that were stopped
    Restart {
        /// The dynos (web.1) or process types (web) to restart
        #[arg(value_name = "DYNO|TYPE")]
        targets: Vec<String>,
        /// Restart every dyno, one of each type at a time
        #[arg(long)]
        all: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how many dynos of each type run, or run others, until the source of releases says otherwise
    Scale {
        /// How many: web=3, worker+1, worker-2
        #[arg(value_name = "TYPE=N|TYPE+N|TYPE-N")]
        changes: Vec<String>,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the releases that were to run on this host, and what became of them
    Releases {
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Go back to a release, until the source has a newer one
    Rollback {
        /// The release [default: the last good one]
        #[arg(value_name = "vN")]
        release: Option<String>,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a new control file would change, dyno by dyno, and change nothing
    Plan {
        /// The control file, or - for standard input
        file: OsString,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the names of the config vars of the live release
    Config {
        /// Show the values, too
        #[arg(long)]
        show: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the newest log lines of a running hsup
    Logs {
        /// Show this dyno (web.1) or process type (web) only; may be repeated
        #[arg(long, visible_alias = "type", value_name = "DYNO|TYPE")]
        dyno: Vec<String>,
        /// How many lines to show [default: 100, or all with --since]
        #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
        num: Option<String>,
        /// Go on with what is printed from now on
        #[arg(short, long)]
        follow: bool,
        /// Show lines from then on only: a time (2026-11-21T10:00:00Z) or how long ago (5m)
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Write a JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show what has happened lately in a running hsup: dynos, releases, commands
    Events(EventsFlags),
    /// Check a control file, and start nothing
    Check {
        /// The control file
        file: OsString,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show, add and remove the stacks of this host: the root file systems that dynos run on
    Stack {
        #[command(subcommand)]
        command: StackArgs,
    },
    /// Show what hsups that were killed have left on this host: processes, cgroups, links, claims, directories
    Doctor {
        /// Remove it
        #[arg(long)]
        fix: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the completions of a shell, as in: source <(hsup completions bash)
    Completions {
        /// The shell
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
    /// Write the man pages into a directory, as in: hsup man ~/.local/share/man/man1
    Man {
        /// The directory
        #[arg(value_name = "DIR")]
        dir: OsString,
    },
    /// Show the version
    Version,
}

/// The commands of `hsup stack`.
#[derive(clap::Subcommand)]
pub(in crate::cli) enum StackArgs {
    /// Show the stacks of this host
    List {
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a stack, from a file or URL or from the manifest
    Add {
        /// The name and version; the name alone for the newest one of the manifest
        #[arg(value_name = "NAME-VERSION|NAME")]
        name: String,
        /// A root tarball (.tgz, .tar) or a file system image (ext2/3/4, xfs, erofs, squashfs), gzipped or not
        /// [default: what the manifest has]
        #[arg(value_name = "PATH|URL")]
        from: Option<OsString>,
        /// The digest that it must have
        #[arg(long, value_name = "SHA256:HEX", requires = "from")]
        checksum: Option<String>,
    },
    /// Remove a stack that no dyno runs on
    Remove {
        /// The name and version
        #[arg(value_name = "NAME-VERSION")]
        name: String,
    },
}
