//! What is tested: the binary and the driver.

use std::env;
use std::fmt;
use std::path::PathBuf;

/// A dyno driver that the tests can be run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Subprocesses in the working directory.
    Simple,
    /// Subprocesses in `/app`, which each test has for itself in a mount namespace of its own.
    Abspath,
    /// Containers of a Docker Engine, which all tests of a run share.
    Docker,
    /// Linux namespaces; each test's are below a network and a mount namespace of its own.
    Native,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simple => "simple",
            Self::Abspath => "abspath",
            Self::Docker => "docker",
            Self::Native => "native",
        })
    }
}

/// The driver that `FTEST_DRIVER` names.
///
/// # Panics
/// If it names none that the tests know.
pub fn driver() -> Driver {
    match env::var("FTEST_DRIVER").as_deref() {
        Err(env::VarError::NotPresent) | Ok("" | "simple") => Driver::Simple,
        Ok("abspath") => Driver::Abspath,
        Ok("docker") => Driver::Docker,
        Ok("native") => Driver::Native,
        other => panic!("FTEST_DRIVER is {other:?}: use simple, abspath, docker or native"),
    }
}

/// The binary that `FTEST_BIN` names, else the one that cargo has built beside the tests.
///
/// # Panics
/// If there is none.
pub fn hsup_binary() -> PathBuf {
    if let Some(named) = env::var_os("FTEST_BIN").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(&named).canonicalize();
        return path.unwrap_or_else(|error| panic!("FTEST_BIN names {named:?}, which is not there: {error}"));
    }
    // target/debug/deps/run-0123456789abcdef
    let test = env::current_exe().expect("the test knows where it is");
    let path = test.ancestors().nth(2).expect("cargo puts tests into target/debug/deps").join("hsup");
    assert!(
        path.is_file(),
        "there is no hsup at {}: run `cargo build` (or `make test`) first, or name one with FTEST_BIN",
        path.display()
    );
    path.canonicalize().expect("it is there")
}

/// Whether this run of the tests is with the one driver that a test is about; says so if not.
pub fn is_about(only: Driver) -> bool {
    let about = driver() == only;
    if !about {
        println!("skip: this test is about the {only} driver");
    }
    about
}

/// Whether the driver runs the code of slugs, which this test is about; says so if not.
pub fn runs_slugs() -> bool {
    let runs = match driver() {
        Driver::Simple => false,
        Driver::Abspath | Driver::Docker | Driver::Native => true,
    };
    if !runs {
        println!("skip: this test is about drivers that run the code of slugs");
    }
    runs
}

/// How long a dyno has to be up to count as healthy, where one that crashes at once is to have done so before: of a
/// container's end the engine may tell a while later.
pub fn min_healthy() -> &'static str {
    match driver() {
        Driver::Simple | Driver::Abspath | Driver::Native => "300ms",
        Driver::Docker => "3s",
    }
}

/// Whether each dyno has a network of its own, and so may have the same port as the next one.
pub fn isolated_network() -> bool {
    match driver() {
        Driver::Simple | Driver::Abspath => false,
        Driver::Docker | Driver::Native => true,
    }
}

/// The root file system that native dynos of the tests have: what `FTEST_STACK` names, else the one that
/// `make stack` has made beside the tests.
///
/// # Panics
/// If there is none.
pub fn stack() -> PathBuf {
    let made = || {
        // target/debug/deps/run-0123456789abcdef
        let test = env::current_exe().expect("the test knows where it is");
        let beside = test.ancestors().map(|dir| dir.join("stack/bookworm")).find(|path| path.exists());
        beside.unwrap_or_else(|| "target/stack/bookworm".into())
    };
    let named = env::var_os("FTEST_STACK").filter(|named| !named.is_empty());
    let path = named.map_or_else(made, PathBuf::from);
    assert!(
        path.join("bin/sh").exists(),
        "there is no root file system at {}: run `make stack` as root, or name one with FTEST_STACK",
        path.display()
    );
    path.canonicalize().expect("it is there")
}

/// A test cannot run because this host lacks something: says so, or fails if `FTEST_REQUIRE=1`.
///
/// # Panics
/// With `FTEST_REQUIRE=1`.
pub fn missing(what: &str) {
    assert!(env::var("FTEST_REQUIRE").as_deref() != Ok("1"), "this host lacks {what}, and FTEST_REQUIRE=1");
    println!("skip: this host lacks {what}");
}
