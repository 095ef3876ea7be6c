//! Tests of the grammar: where options may stand, and whose a word is.

use clap::error::ErrorKind;

use super::*;

fn parse(line: &[&str]) -> Result<CommandLine, clap::Error> {
    CommandLine::parse(["hsup"].iter().chain(line).map(OsString::from))
}

fn run(line: &[&str]) -> (Options, Vec<String>) {
    match parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}")) {
        CommandLine { options, command: CommandArgs::Run { live: false, command } } => (options, command),
        _ => panic!("not run"),
    }
}

#[test]
fn clap_finds_the_grammar_sound() {
    command().debug_assert();
}

#[test]
fn every_option_stands_before_or_after_the_command() {
    for option in command().get_arguments().filter(|arg| arg.get_value_names().is_some()) {
        let flag = format!("--{}=true", option.get_long().unwrap());
        let lines: [&[&str]; 4] =
            [&[&flag, "build"], &["build", &flag], &["stack", &flag, "list"], &["stack", "list", &flag]];
        for line in lines {
            let parsed = parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            let options = parsed.options;
            let texts = [
                options.app,
                options.dynodriver,
                options.control_group,
                options.read_group,
                options.oneshot,
                options.start_number,
                options.logplex_url.into_iter().next(),
                options.log_overflow,
                options.log_buffer,
                options.log_spool,
                options.log_gzip,
                options.log_flush_timeout,
                options.log_tail,
                options.log_dir_size,
                options.log_dir_age,
                options.log_dir_keep,
                options.bind.into_iter().next(),
                options.limits.into_iter().next(),
                options.allow.into_iter().next(),
                options.stack_image.into_iter().next(),
                options.heroku_api_url,
                options.whole_formation,
                options.no_stale,
                options.stack_manifest,
                options.poll_interval,
                options.stop_timeout,
                options.listen.into_iter().next(),
                options.rollout.readiness.into_iter().next(),
                options.rollout.liveness.into_iter().next(),
                options.rollout.rollout.into_iter().next(),
                options.rollout.boot_timeout,
                options.rollout.min_healthy_time,
                options.log_format,
                options.log_level,
            ];
            let paths = [
                options.control_socket,
                options.docker_entry,
                options.control_dir,
                options.procfile,
                options.state_dir,
                options.log_dir,
            ];
            let given = texts.iter().flatten().count() + paths.iter().flatten().count();
            assert_eq!(given, 1, "{line:?}");
        }
    }
}

#[test]
fn on_both_sides_the_later_value_counts_and_repeatable_ones_add_up() {
    let parsed = parse(&["-a", "x", "--bind", "/a", "build", "--bind", "/b", "-a", "y"]).ok().unwrap();
    assert_eq!(parsed.options.app.as_deref(), Some("y"));
    assert_eq!(parsed.options.bind, ["/a", "/b"]);
    let parsed = parse(&["build", "-a", "x", "-a", "y"]).ok().unwrap();
    assert_eq!(parsed.options.app.as_deref(), Some("y"));
}

#[test]
fn from_its_first_word_on_everything_belongs_to_the_command_of_run() {
    let (options, command) = run(&["run", "-a", "myapp", "--", "rake", "-T"]);
    assert_eq!((options.app.as_deref(), command.join(" ")), (Some("myapp"), "rake -T".to_owned()));

    let (options, command) = run(&["run", "-d", "simple", "ls", "-la"]);
    assert_eq!((options.dynodriver.as_deref(), command.join(" ")), (Some("simple"), "ls -la".to_owned()));

    let (options, command) = run(&["-d", "simple", "run", "echo $X"]);
    assert_eq!((options.dynodriver.as_deref(), command), (Some("simple"), vec!["echo $X".to_owned()]));

    let (options, command) = run(&["run", "sh", "-a", "x", "--", "-s", "--help", "-V", "help", "run"]);
    assert_eq!((options.app, options.control_socket), (None, None));
    assert_eq!(command.join(" "), "sh -a x -- -s --help -V help run");

    let (_, command) = run(&["run", "--", "-x", "--", "y"]);
    assert_eq!(command.join(" "), "-x -- y");
}

#[test]
fn run_needs_a_command_and_refuses_unknown_options_before_it() {
    assert_eq!(parse(&["run"]).err().unwrap().kind(), ErrorKind::MissingRequiredArgument);
    assert_eq!(parse(&["run", "--frob", "ls"]).err().unwrap().kind(), ErrorKind::UnknownArgument);
}

#[test]
fn oneshot_takes_a_value_only_after_an_equals_sign() {
    let oneshot = |line: &[&str]| parse(line).ok().unwrap().options.oneshot;
    assert_eq!(oneshot(&["--oneshot", "build"]).as_deref(), Some("true"));
    assert_eq!(oneshot(&["--oneshot=false", "build"]).as_deref(), Some("false"));
    let (_, command) = run(&["run", "--oneshot", "ls"]);
    assert_eq!(command, ["ls"]);
}

#[test]
fn status_is_ps() {
    let parsed = parse(&["status", "--json"]).ok().unwrap();
    assert!(matches!(parsed.command, CommandArgs::Ps { watch: false, json: true }));
}

#[test]
fn the_help_names_the_variable_of_every_option() {
    for option in command().get_arguments().filter(|arg| arg.get_value_names().is_some()) {
        let variable = match option.get_long().unwrap() {
            "log-level" => "HSUP_LOG".to_owned(),
            long => format!("HSUP_{}", long.to_uppercase().replace('-', "_")),
        };
        let help = option.get_help().unwrap().to_string();
        let named = help.split_once("[env: ").and_then(|(_, rest)| rest.split([']', ',']).next());
        assert_eq!(named, Some(variable.as_str()), "{help}");
    }
}

#[test]
fn a_line_that_is_right_needs_no_more_of_the_grammar_than_its_words_name() {
    for line in
        ["-a x start web=2", "run -d simple start -a", "status --json", "stack list -a x", "-s none build"]
    {
        let line: Vec<OsString> = ["hsup"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
        command_of(&line).try_get_matches_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}
