//! What a command line takes from a Docker Engine, a service manager and a driver.

use hsup_drivers::docker::{Endpoint, TlsFiles};

use super::*;

#[test]
fn the_docker_engine_is_named_as_docker_names_it() {
    let docker = |case: Case, line: &[&str]| case.config(line).docker;
    let tls = |case: Case| match docker(case, &["start"]).endpoint {
        Endpoint::Tcp { tls, .. } => tls,
        Endpoint::Unix(path) => panic!("{path:?}"),
    };
    assert_eq!(docker(Case::app(), &["start"]).endpoint, Endpoint::Unix("/var/run/docker.sock".into()));
    let case = || Case::app().with("DOCKER_HOST", "tcp://engine:99");
    assert_eq!(tls(case()), None);
    assert_eq!(tls(case().with("DOCKER_CERT_PATH", "/certs")), Some(TlsFiles("/certs".into())));
    assert_eq!(tls(case().with("DOCKER_TLS_VERIFY", "1")), Some(TlsFiles("/home/me/.docker".into())));
    let case = Case::app().with("DOCKER_IMAGE_CACHE", "0").with("HSUP_STACK_IMAGE", "a=b:1");
    let config = docker(case, &["start", "--stack-image", "heroku-24=x:1", "--docker-entry", "/bin/hsup"]);
    assert_eq!((config.kept_images, config.entry), (0, Some("/bin/hsup".into())));
    assert_eq!(config.stack_images, ["heroku-24=x:1".parse().unwrap()].into_iter().collect());
    for (variable, value) in
        [("DOCKER_HOST", "engine"), ("DOCKER_IMAGE_CACHE", "all"), ("HSUP_STACK_IMAGE", "a")]
    {
        let error = Case::app().with(variable, value).parse(&["start"]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{variable}: ")), "{error}");
    }
}

#[test]
fn a_token_may_be_a_credential_that_systemd_has_put_into_a_file() {
    let case = Case::empty().with("HSUP_APP", "shop");
    let credentials = case.path("credentials");
    fs::create_dir(&credentials).unwrap();
    let case = case.with("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());
    let token = |case: &Case| match case.config(&["start"]).source {
        Some(SourceChoice::HerokuApi { token, .. }) => token,
        other => panic!("{other:?}"),
    };
    // none there is as if there were no directory
    assert!(
        case.parse(&["start"])
            .unwrap_err()
            .to_string()
            .starts_with("no source of releases: there is no Proc")
    );
    let file = credentials.join("heroku-access-token");
    fs::write(&file, "of-the-file\n").unwrap();
    assert!(token(&case) == "of-the-file".parse().unwrap());
    let case = case.with("HEROKU_ACCESS_TOKEN", "of-the-variable");
    assert!(token(&case) == "of-the-variable".parse().unwrap());
    let case = case.with("HEROKU_ACCESS_TOKEN", "");
    assert!(token(&case) == "of-the-file".parse().unwrap());
    fs::write(&file, "two words").unwrap();
    let bad = "heroku-access-token: the value (not shown) is not a token: it holds blanks or characters that no token has";
    case.refuses(&["start"], ExitCode::Usage, &[bad]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let said = case.parse(&["start"]).unwrap_err();
    assert_eq!(said.exit_code(), ExitCode::Usage);
    assert!(said.to_string().starts_with("CREDENTIALS_DIRECTORY: cannot read "), "{said}");
}

#[test]
fn a_socket_is_held_once_a_type_and_only_for_dynos_that_can_have_it() {
    let refused = |line: &[&str]| match Case::app().parse(line) {
        Err(CliError::Values(problems)) => problems.iter().map(ToString::to_string).collect::<String>(),
        other => panic!("{line:?}: {other:?}"),
    };
    let twice = refused(&["start", "--listen", "web=5000", "--listen", "web=5001"]);
    assert!(twice.contains("--listen: web is there twice"), "{twice}");
    for driver in ["docker", "native"] {
        let apart = refused(&["-d", driver, "start", "--listen", "web=5000"]);
        assert!(apart.contains("have networks of their own"), "{apart}");
    }
    assert_eq!(Case::app().config(&["start", "--listen", "web=5000"]).listens.len(), 1);
}
