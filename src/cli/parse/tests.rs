//! Whole command lines with their environments, and the very words of what is wrong with them.

use std::fs;

use super::*;
use crate::cli::{ClientRequest, DriverKind, DynoTargets, ExitCode, StackCommand};
use crate::log::LogFormat;
use crate::logs::LogSettings;
use crate::model::{Quantities, RolloutSettings};
use crate::stack::StackId;

mod surroundings;

/// A directory to call hsup in, and an environment.
struct Case {
    directory: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    root: bool,
}

impl Case {
    /// An app's directory, that is one with a Procfile.
    fn app() -> Self {
        let case = Self::empty();
        fs::write(case.directory.path().join("Procfile"), "web: true\n").unwrap();
        case
    }

    /// A directory with nothing in it.
    fn empty() -> Self {
        let directory = tempfile::Builder::new().prefix("myapp-").tempdir().unwrap();
        Self { directory, variables: vec![("HOME", "/home/me".to_owned())], root: false }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn parse(&self, line: &[&str]) -> Result<Invocation, CliError> {
        let variables = |name: &str| {
            let found = self.variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let directory = self.directory.path().to_owned();
        let read = |path: &Path| fs::read_to_string(path);
        let surroundings =
            Surroundings { variables: &variables, directory, root: self.root, pid: 42, read: &read };
        parse(["hsup"].iter().chain(line).map(OsString::from), &surroundings)
    }

    fn config(&self, line: &[&str]) -> Config {
        match self.parse(line) {
            Ok(Invocation::Command(config)) => *config,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn printed(&self, line: &[&str]) -> String {
        match self.parse(line) {
            Ok(Invocation::Print(text)) => text,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    /// The lines of the error, and the code.
    #[track_caller]
    fn refuses(&self, line: &[&str], code: ExitCode, expected: &[&str]) {
        let error = self.parse(line).unwrap_err();
        assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected, "{line:?}");
        assert_eq!(error.exit_code(), code, "{line:?}");
    }
}

#[test]
fn everything_has_its_default() {
    let case = Case::app();
    let config = case.config(&["start"]);
    let name = case.directory.path().file_name().unwrap().to_str().unwrap();
    let expected = Config {
        app: Some(name.parse().unwrap()),
        driver: DriverKind::Simple,
        source: Some(SourceChoice::Procfile { path: case.path("Procfile"), explicit: false }),
        control_socket: SocketChoice::Default,
        control_group: None,
        read_group: None,
        runtime_dir: None,
        one_shot: false,
        start_number: 1,
        logs: LogSettings::default(),
        limits: LimitSettings::default(),
        native: native::read(&mut Reader::new(&|_| None), Vec::new()),
        docker: docker::read(&mut Reader::new(&|_| None), Vec::new(), None, "/".as_ref()),
        binds: vec![],
        state_dir: "/home/me/.local/state/hsup".into(),
        stack_manifest: None,
        poll_interval: Duration::from_secs(10),
        stop_timeout: Duration::from_secs(30),
        rollout: RolloutSettings::default(),
        listens: Vec::new(),
        given: GivenByManager::default(),
        log: LogConfig::default(),
        command: CliCommand::Start { quantities: Quantities::OfRelease },
    };
    assert_eq!(config, expected);
}

#[test]
fn variables_say_what_flags_say() {
    let case = Case::app()
        .with("HSUP_APP", "shop")
        .with("HSUP_DYNODRIVER", "abspath")
        .with("HSUP_CONTROL_SOCKET", "none")
        .with("HSUP_ONESHOT", "1")
        .with("HSUP_START_NUMBER", "3")
        .with("HSUP_LOGPLEX_URL", "https://t:pw@logs.example.com/logs syslog+tls://logs.example.com")
        .with("HSUP_LOG_OVERFLOW", "block")
        .with("HSUP_LOG_BUFFER", "16MiB")
        .with("HSUP_LOG_SPOOL", "0")
        .with("HSUP_LOG_GZIP", "yes")
        .with("HSUP_LOG_FLUSH_TIMEOUT", "1s")
        .with("HSUP_LOG_TAIL", "2MiB")
        .with("HSUP_LOG_DIR", "logs")
        .with("HSUP_LOG_DIR_SIZE", "1GiB")
        .with("HSUP_LOG_DIR_AGE", "1h")
        .with("HSUP_LOG_DIR_KEEP", "3")
        .with("HSUP_BIND", "/srv/a:/a, /b")
        .with("HSUP_CONTROL_DIR", "control")
        .with("HSUP_STATE_DIR", "state")
        .with("HSUP_STACK_MANIFEST", "stacks.yml")
        .with("HSUP_POLL_INTERVAL", "1m")
        .with("HSUP_STOP_TIMEOUT", "0s")
        .with("HSUP_LOG_FORMAT", "json")
        .with("HSUP_LOG", "hsup=debug")
        .with("NO_COLOR", "1")
        .with("XDG_RUNTIME_DIR", "/run/user/7");
    let by_variables = case.config(&["build"]);
    let flags = "-a shop -d abspath -s none --oneshot --start-number 3 --logplex-url \
                 https://t:pw@logs.example.com/logs --logplex-url syslog+tls://logs.example.com --log-overflow block \
                 --log-buffer 16MiB --log-spool 0 --log-gzip --log-flush-timeout 1s --log-tail 2MiB --log-dir logs \
                 --log-dir-size 1GiB --log-dir-age 1h --log-dir-keep 3 --bind /srv/a:/a --bind /b --control-dir control \
                 --state-dir state --stack-manifest stacks.yml --poll-interval 1m --stop-timeout 0s --log-format json --log-level hsup=debug";
    let mut line: Vec<_> = flags.split_whitespace().collect();
    line.push("build");
    let bare =
        Case { variables: vec![], ..case }.with("NO_COLOR", "1").with("XDG_RUNTIME_DIR", "/run/user/7");
    assert_eq!(by_variables, bare.config(&line));
    assert_eq!(by_variables.logs.drains.len(), 2);
    assert_eq!(by_variables.logs.files.as_ref().map(|files| files.dir.clone()), Some(bare.path("logs")));
    assert_eq!(by_variables.binds[1].inside, PathBuf::from("/b"));
    assert_eq!(by_variables.log.format, LogFormat::Json);
    assert!(!by_variables.log.colour);
    assert_eq!(by_variables.state_dir, bare.path("state"));
    assert_eq!(by_variables.stack_manifest, Some(StackLocation::Path(bare.path("stacks.yml"))));
}

#[test]
fn a_flag_beats_its_variable_and_an_empty_variable_is_unset() {
    let case =
        Case::app().with("HSUP_APP", "shop").with("HSUP_ONESHOT", "true").with("HSUP_STOP_TIMEOUT", "");
    let config = case.config(&["build", "-a", "forum", "--oneshot=false"]);
    assert_eq!(config.app.unwrap().as_str(), "forum");
    assert_eq!((config.one_shot, config.stop_timeout), (false, Duration::from_secs(30)));
    let case = case.with("HSUP_BIND", "/a");
    assert_eq!(case.config(&["--bind", "/b", "build"]).binds.len(), 1);
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let case =
        Case::empty().with("HSUP_STOP_TIMEOUT", "2h").with("HSUP_ONESHOT", "maybe").with("HSUP_LOG", "loud");
    let line = "-a my/app -d podman -s / --start-number 0 --logplex-url hunter2 --bind rel:/x --bind /y:z \
                --poll-interval 10 --log-format xml start web=1 web=many run=1";
    let line: Vec<_> = line.split_whitespace().collect();
    case.refuses(
        &line,
        ExitCode::Usage,
        &[
            "--app: app name \"my/app\" is not valid: only letters, digits and -, _ are allowed (in stack and \
             app names also .)",
            "--dynodriver: \"podman\" is not a dyno driver: use simple, abspath, docker or native",
            "HSUP_ONESHOT: \"maybe\" is neither yes nor no: write true or false",
            "--start-number: \"0\" is not the number of a dyno: write a whole number from 1 to 1000000",
            "--logplex-url: the URL does not start with http://, https://, syslog:// or syslog+tls://: write one such as \
             https://token:PASSWORD@logs.example.com/logs",
            "--bind: bind \"rel:/x\" is not valid: write HOST:INSIDE or HOST:INSIDE:ro with two absolute paths, for instance \
             /srv/data:/app/data",
            "--bind: bind \"/y:z\" is not valid: write HOST:INSIDE or HOST:INSIDE:ro with two absolute paths, for instance \
             /srv/data:/app/data",
            &format!(
                "no source of releases: there is no Procfile in {}: run hsup in the directory of an app, or \
                 name a source with --procfile PATH, --control-dir DIR, or HEROKU_ACCESS_TOKEN and --app APP",
                case.directory.path().display()
            ),
            "--poll-interval: \"10\" has no unit: give a unit, for instance 10s (the units are ms, s, m and h)",
            "HSUP_STOP_TIMEOUT: \"2h\" is out of range: write 0s to 1h",
            "--log-format: \"xml\" is not a log format: write text or json",
            "HSUP_LOG: \"loud\" is not a log filter: write a level (off, error, warn, info, debug or trace), \
             or TARGET=LEVEL separated by commas, for instance info,hsup=debug",
            "start: argument \"web=many\": \"web=many\" is not a quantity: write TYPE=N with N from 0 to \
             10000, for instance web=2",
            "start: argument \"run=1\": \"run\" is kept for one-off dynos: use hsup run CMD",
        ],
    );
}

#[test]
fn a_line_that_cannot_be_taken_apart_is_a_usage_error() {
    let case = Case::app();
    for line in [&["--frob"][..], &["frob"], &["-a"], &["-a", "x"], &[], &["check"], &["ps", "web"]] {
        let error = case.parse(line).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage, "{line:?}");
        assert!(matches!(error, CliError::Grammar(_)), "{line:?}");
    }
}

#[test]
fn quantities_are_read() {
    let CliCommand::Start { quantities: Quantities::Explicit(map) } =
        Case::app().config(&["start", "web=2", "clock", "-a", "x"]).command
    else {
        panic!("not explicit")
    };
    let read: Vec<_> = map.iter().map(|(process_type, n)| format!("{process_type}={n}")).collect();
    assert_eq!(read, ["clock=1", "web=2"]);
}

#[test]
fn run_takes_its_command_whole() {
    let case = Case::app();
    let config = case.config(&["run", "-a", "shop", "--", "rake", "-T", "--oneshot"]);
    let CliCommand::Run { command } = config.command else { panic!("not run") };
    assert_eq!(command.args(), ["rake", "-T", "--oneshot"]);
    assert!(!config.one_shot);
    case.refuses(
        &["run", " "],
        ExitCode::Usage,
        &["run: the command is empty: give what the dyno is to run"],
    );
}

#[test]
fn stop_must_be_told_what_to_stop() {
    let case = Case::empty();
    let targets = |line: &[&str]| {
        let CliCommand::Client { request: ClientRequest::Stop(targets), .. } = case.config(line).command
        else {
            panic!("not stop")
        };
        targets
    };
    assert_eq!(targets(&["stop", "--all", "--json"]), DynoTargets::All);
    let named = DynoTargets::Named(vec!["web".parse().unwrap(), "worker.2".parse().unwrap()]);
    assert_eq!(targets(&["stop", "web", "worker.2"]), named);
    let what = "stop: name what to stop, dynos (web.1) or process types (web), or give --all for every dyno";
    case.refuses(&["stop"], ExitCode::Usage, &[what]);
    let both = "stop: --all means every dyno: give --all or names, not both";
    case.refuses(&["stop", "--all", "web"], ExitCode::Usage, &[both]);
    case.refuses(
        &["stop", "web", "web.x"],
        ExitCode::Usage,
        &["stop: dyno name \"web.x\" is not valid: it must be a process type, a dot and a number"],
    );
}

#[test]
fn clients_need_neither_a_source_nor_a_home() {
    let case = Case { variables: vec![], ..Case::empty() };
    for line in [&["ps"][..], &["stop", "web"], &["check", "new"]] {
        let config = case.config(line);
        assert_eq!((config.source, config.app), (None, None), "{line:?}");
    }
    let file = CliCommand::Check { file: "new".into(), json: false };
    assert_eq!(case.config(&["check", "new"]).command, file);
}

#[test]
fn help_and_version_are_printed() {
    let case = Case::empty().with("HSUP_START_NUMBER", "bad");
    let version = concat!("hsup ", env!("CARGO_PKG_VERSION"));
    for line in [&["version"][..], &["-V"], &["--version"]] {
        assert_eq!(case.printed(line), version);
    }
    for line in [&["help"][..], &["--help"], &["-h"], &["help", "run"], &["run", "--help"]] {
        let help = case.printed(line);
        assert!(help.contains("Usage: hsup") && help.contains("[env: HSUP_STOP_TIMEOUT]"), "{help}");
    }
}

#[test]
fn sources_have_their_order() {
    let case = Case::app().with("HSUP_CONTROL_GOB", "c2VjcmV0").with("HSUP_CONTROL_GOB_FILE", "gob");
    let case = case.with("HSUP_CONTROL_DIR", "control").with("HSUP_PROCFILE", "other/Procfile");
    let source = |case: &Case| case.config(&["start"]).source.unwrap();

    let text = "c2VjcmV0".to_owned();
    assert_eq!(source(&case), SourceChoice::Payload { text: text.clone().into(), folder: None });
    assert!(!format!("{:?}", source(&case)).contains(&text));
    let case = case.with("HSUP_CONTROL_GOB", "");
    assert_eq!(source(&case), SourceChoice::PayloadFile { path: case.path("gob") });
    let case = case.with("HSUP_CONTROL_GOB_FILE", "");
    assert_eq!(source(&case), SourceChoice::ControlDir { dir: case.path("control") });
    assert_eq!(case.config(&["start"]).app, None);
    let flagged = case.config(&["--procfile", "mine", "start"]).source;
    assert_eq!(flagged, Some(SourceChoice::Procfile { path: case.path("mine"), explicit: true }));
    let case = case.with("HSUP_CONTROL_DIR", "");
    assert_eq!(source(&case), SourceChoice::Procfile { path: case.path("other/Procfile"), explicit: true });
    assert_eq!(case.config(&["start"]).app.unwrap().as_str(), "other");
    let case = case.with("HSUP_PROCFILE", "");
    assert_eq!(source(&case), SourceChoice::Procfile { path: case.path("Procfile"), explicit: false });
}

#[test]
fn two_flags_that_choose_a_source_are_one_too_many() {
    let what = "--control-dir and --procfile: both choose the source of releases: give only one of them";
    let line = ["--control-dir", "c", "start", "--procfile", "p"];
    Case::app().refuses(&line, ExitCode::Usage, &[what]);
}

#[test]
fn a_folder_whose_name_is_no_app_name_holds_the_app_app() {
    let case = Case::empty();
    let config = case.config(&["--procfile", "my app/Procfile", "start"]);
    assert_eq!(config.app.unwrap().as_str(), "app");
}

#[test]
fn a_token_and_an_app_choose_the_heroku_api_unless_a_flag_names_another_source() {
    let case = Case::app().with("HEROKU_ACCESS_TOKEN", "t0ken\n");
    let is_api = |case: &Case, line: &[&str]| {
        matches!(case.config(line).source.unwrap(), SourceChoice::HerokuApi { .. })
    };
    assert!(is_api(&case, &["start", "-a", "shop"]));
    assert!(!is_api(&case, &["start"]));
    assert!(!is_api(&case, &["start", "-a", "shop", "--control-dir", "c"]));
    assert!(!is_api(&case, &["start", "-a", "shop", "--procfile", "p"]));
    let case = case.with("HSUP_APP", "shop").with("HSUP_CONTROL_DIR", "c").with("HSUP_PROCFILE", "p");
    let SourceChoice::HerokuApi { url, token, app, stale } = case.config(&["start"]).source.unwrap() else {
        panic!()
    };
    assert_eq!((url.as_str(), app.as_str(), stale), ("https://api.heroku.com", "shop", true));
    assert!(!format!("{token:?}").contains("t0ken"));
    let line = ["start", "--no-stale", "--heroku-api-url", "http://127.0.0.1:1/"];
    let SourceChoice::HerokuApi { url, stale, .. } = case.config(&line).source.unwrap() else { panic!() };
    assert_eq!((url.as_str(), stale), ("http://127.0.0.1:1", false));
}

#[test]
fn a_token_needs_an_app_and_must_be_one() {
    let case = Case::empty().with("HEROKU_ACCESS_TOKEN", "t0ken");
    let error = case.parse(&["start"]).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::NoSource);
    assert!(error.to_string().contains("--app APP"), "{error}");
    let error = case.parse(&["start", "-a", "my/app"]).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().lines().count()), (ExitCode::Usage, 1), "{error}");
    let case = case.with("HEROKU_ACCESS_TOKEN", "two words").with("HSUP_HEROKU_API_URL", "api");
    let error = case.parse(&["start", "-a", "shop"]).unwrap_err().to_string();
    assert!(!error.contains("two words") && error.contains("HEROKU_ACCESS_TOKEN: "), "{error}");
    assert!(error.contains("HSUP_HEROKU_API_URL: the value is not the URL of an API"), "{error}");
}

#[test]
fn of_a_heroku_app_one_dyno_of_each_type_runs_here_unless_told_otherwise() {
    let case = Case::empty().with("HEROKU_ACCESS_TOKEN", "t0ken").with("HSUP_APP", "shop");
    let quantities = |line: &[&str]| {
        let CliCommand::Start { quantities } = case.config(line).command else { panic!("it is start") };
        quantities
    };
    assert_eq!(quantities(&["start"]), Quantities::OneOfEach);
    assert_eq!(quantities(&["start", "--whole-formation"]), Quantities::OfRelease);
    assert_eq!(quantities(&["start", "--procfile", "p"]), Quantities::OfRelease);
    assert!(matches!(quantities(&["start", "web=2"]), Quantities::Explicit(_)));
    let what = "--whole-formation: TYPE=N says how many dynos run here: give only one of them";
    case.refuses(&["start", "web=2", "--whole-formation"], ExitCode::Usage, &[what]);
}

#[test]
fn state_lies_where_the_user_may_write() {
    let case = Case::app();
    assert_eq!(case.config(&["build"]).state_dir, PathBuf::from("/home/me/.local/state/hsup"));
    let case = case.with("XDG_STATE_HOME", "/state");
    assert_eq!(case.config(&["build"]).state_dir, PathBuf::from("/state/hsup"));
    let case = case.with("XDG_STATE_HOME", "relative");
    assert_eq!(case.config(&["build"]).state_dir, PathBuf::from("/home/me/.local/state/hsup"));
    let case = case.with("HOME", "");
    case.refuses(
        &["build"],
        ExitCode::Usage,
        &["--state-dir: there is no default, since neither XDG_STATE_HOME nor HOME is set: name a directory"],
    );
    let case = Case { root: true, ..case };
    assert_eq!(case.config(&["build"]).state_dir, PathBuf::from("/var/lib/hsup"));
}

#[test]
fn sockets_are_paths_that_fit() {
    let case = Case::app();
    assert_eq!(case.config(&["-s", "none", "ps"]).control_socket, SocketChoice::None);
    let path = |explicit| SocketChoice::Path { path: "./none".into(), explicit };
    assert_eq!(case.config(&["-s", "./none", "ps"]).control_socket, path(true));
    let by_variable = Case::app().with("HSUP_CONTROL_SOCKET", "./none");
    assert_eq!(by_variable.config(&["ps"]).control_socket, path(false));
    let long = format!("/{}", "x".repeat(MAX_SOCKET_PATH));
    case.refuses(
        &["-s", &long, "ps"],
        ExitCode::Usage,
        &["--control-socket: the path has 108 bytes, a unix socket at most 107: use a shorter one"],
    );
}

#[test]
fn binds_do_not_hide_one_another() {
    let what = "--bind: \"/x\" has a bind already: keep one";
    Case::app().refuses(&["--bind", "/a:/x", "--bind", "/b:/x", "build"], ExitCode::Usage, &[what]);
}

#[test]
fn the_password_of_the_log_url_is_shown_nowhere() {
    let config = Case::app().config(&["--logplex-url", "https://t:hunter2@h/logs", "build"]);
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.logs.drains[0].expose(), "https://t:hunter2@h/logs");
    for bad in ["hunter2", "ftp://t:hunter2@h/", "https://t:hunter2@", "https://"] {
        let error = Case::app().parse(&["--logplex-url", bad, "build"]).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.starts_with("--logplex-url: "), "{error}");
    }
}

#[test]
fn stacks_are_named_with_their_version_and_manifests_know_the_newest() {
    let case = Case::empty();
    let command = |line: &[&str]| {
        let CliCommand::Stack(command) = case.config(line).command else { panic!("{line:?}") };
        command
    };
    let id: StackId = "heroku-24-v3".parse().unwrap();
    assert_eq!(command(&["stack", "list", "--json"]), StackCommand::List { json: true });
    let from = StackLocation::Path(case.path("x.img"));
    let add = StackCommand::Add { id: id.clone(), from, checksum: None };
    assert_eq!(command(&["stack", "add", "heroku-24-v3", "x.img"]), add);
    let by_manifest = command(&["stack", "add", "heroku-24", "--stack-manifest", "https://h/m.yml"]);
    assert_eq!(by_manifest, StackCommand::AddFromManifest { name: "heroku-24".parse().unwrap() });
    assert_eq!(command(&["stack", "remove", "heroku-24-v3"]), StackCommand::Remove { id });
    let none = "stack add: name a file or URL to add the stack from, or with --stack-manifest a manifest that has it";
    case.refuses(&["stack", "add", "heroku-24"], ExitCode::Usage, &[none]);
    let none = "stack remove: \"heroku\" names no stack: write NAME-VERSION, as in heroku-24-v3";
    case.refuses(&["stack", "remove", "heroku"], ExitCode::Usage, &[none]);
    for line in [&["stack"][..], &["stack", "add"], &["stack", "add", "x", "--checksum", "SHA256:1"]] {
        assert!(matches!(case.parse(line), Err(CliError::Grammar(_)) | Ok(Invocation::Print(_))), "{line:?}");
    }
}
