//! The control API against its own description, by a fuzzer: what `openapi.json` promises is what a running hsup does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hsup_ftest::{Driver, Hsup, Room, gateway, is_about, missing};
use serde_json::{Value, json};

/// What makes a control file is more than a schema says; that one which is wrong is refused as it should be is checked.
const EXCEPTIONS: &str = r#"
[[operations]]
include-path = "/plan"
checks.positive_data_acceptance.enabled = false
"#;

/// The fuzzer that `make venv` has installed.
fn schemathesis() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are below the sources");
    let program = sources.join("target/venv/bin/st");
    if program.is_file() {
        return Some(program);
    }
    missing("schemathesis (make venv installs it)");
    None
}

fn running(room: &Room) -> Hsup {
    // Nothing in the description names `keeper`, so that nothing that is asked for stops every dyno, and with it hsup.
    // So near to the last port there is none for hundreds of dynos.
    let app = room.app().env("PORT", "65400").process("web", "exec sleep 600", 2);
    room.release(&app.process("keeper", "exec sleep 600", 1));
    let hsup = room.hsup(["start"]).up();
    hsup.wait_up("web.1");
    hsup.wait_up("keeper.1");
    hsup
}

/// The description as it is served, in a form in which more of it can be checked: without what makes an answer go on
/// for ever, and with every field of answers that it does not name forbidden.
fn strict(hsup: &Hsup) -> Value {
    let mut document = hsup.get("/openapi.json").json();
    let paths = document["paths"].as_object_mut().expect("there are paths");
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
        if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
            parameters.retain(|parameter| parameter["x-streams"] != json!(true));
        }
    }
    paths.retain(|_, path| path["get"]["x-streams"] != json!(true));
    let schemas = document["components"]["schemas"].as_object_mut().expect("there are schemas");
    for (name, schema) in schemas.iter_mut().filter(|(name, _)| !name.ends_with("Request")) {
        forbid_others(schema);
        assert!(schema.is_object(), "{name}");
    }
    document
}

fn forbid_others(schema: &mut Value) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema["additionalProperties"] = json!(false);
    }
    let children = schema.as_object_mut().into_iter().flat_map(|object| object.values_mut());
    children.filter(|child| child.is_object()).for_each(forbid_others);
}

#[test]
fn what_the_description_promises_holds_against_a_fuzzer() {
    if !is_about(Driver::Simple) {
        return;
    }
    let Some(schemathesis) = schemathesis() else { return };
    let room = Room::new();
    let hsup = running(&room);
    let document = room.path("openapi.json");
    fs::write(&document, strict(&hsup).to_string()).expect("a file can be written");
    fs::write(room.path("work/schemathesis.toml"), EXCEPTIONS).expect("a file can be written");
    let address = gateway(room.socket());
    let mut command = Command::new(schemathesis);
    // Every check that there is, but for the exceptions, is made by default.
    command.args(["run", "--no-color", "--phases", "examples,coverage,fuzzing"]);
    // The same requests each time; a failure is shown with the request that has led to it.
    command.args(["--generation-deterministic", "--max-examples", "60"]);
    command.args(["--request-timeout", "20", "--continue-on-failure", "--url"]);
    command.arg(format!("http://{address}/")).arg(&document).current_dir(room.path("work"));
    let output = command.output().expect("the fuzzer starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}\n{}", hsup.printed());
    assert!(said.contains("passed"), "{said}");
    assert_eq!(hsup.get("/health").status, 200);
    assert_eq!(hsup.dyno("keeper.1")["State"], "up");
    assert_eq!(hsup.lines("panicked"), [""; 0]);
    assert_eq!(hsup.stop().code, 0);
}

#[test]
fn the_description_is_that_of_the_sources() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let hsup = running(&room);
    let answer = hsup.get("/openapi.json");
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{answer:?}");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/control/openapi.json");
    assert_eq!(answer.body, fs::read_to_string(kept).expect("it is there"));
}
