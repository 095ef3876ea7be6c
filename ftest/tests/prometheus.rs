//! Prometheus' own parser of OpenMetrics reads `/metrics`. It is in Python, and installed by `make venv`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hsup_ftest::{Driver, Hsup, Room, Sink, is_about, missing};
use serde_json::Value;

/// Reads a text and writes each family with its type, unit and help, and how many samples it has.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    families[family.name] = [family.type, family.unit, family.documentation, len(family.samples)]
print(json.dumps(families))
";

fn python() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are below the sources");
    let program = sources.join("target/venv/bin/python");
    if program.is_file() {
        return Some(program);
    }
    missing("Prometheus' parser (make venv installs it)");
    None
}

fn parse(python: &Path, text: &str) -> Value {
    let mut command = Command::new(python);
    command.args(["-I", "-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python can be started");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it writes JSON")
}

fn check(python: &Path, hsup: &Hsup) -> Value {
    let families = parse(python, &hsup.get("/metrics").body);
    for (name, family) in families.as_object().expect("it is an object") {
        let [kind, _, help, _] = family.as_array().expect("it is a list").as_slice() else {
            panic!("{family}")
        };
        assert!(kind != "unknown" && help.as_str().is_some_and(|help| !help.is_empty()), "{name}: {family}");
    }
    families
}

#[test]
fn prometheus_understands_all_of_it() {
    if !is_about(Driver::Simple) {
        return;
    }
    let Some(python) = python() else { return };
    let room = Room::new();
    let hsup = room.hsup(["start"]).up();
    let before = check(&python, &hsup);
    assert_eq!(before["hsup_dynos"][3], 0, "{before}");
    hsup.stop();

    let sink = Sink::new(&room);
    room.release(&room.app().process("web", "echo hello; exec sleep 600", 2).process("worker", "exit 1", 1));
    let hsup = room.hsup(["start"]).arg("--logplex-url").arg(sink.url()).up();
    hsup.wait_up("web.2");
    hsup.wait_dyno("worker.1", "crash-loops", |dyno| dyno["State"] == "crashed");
    let families = check(&python, &hsup);
    for (name, kind, unit) in [
        ("hsup_dynos", "gauge", ""),
        ("hsup_dyno_restarts", "counter", ""),
        ("hsup_dyno_start_seconds", "histogram", "seconds"),
        ("hsup_release", "info", ""),
        ("hsup_log_bytes", "counter", "bytes"),
        ("hsup_drain_sent_lines", "counter", ""),
        ("hsup_drain_buffered_bytes", "gauge", "bytes"),
        ("hsup_build", "info", ""),
        ("process_start_time_seconds", "gauge", "seconds"),
    ] {
        let family = &families[name];
        assert!(family[0] == kind && family[1] == unit && family[3].as_u64() > Some(0), "{name}: {families}");
    }
    let text = hsup.get("/metrics").body;
    assert!(
        !text.contains("s3cret") && !text.contains("token"),
        "the password of a drain is nobody's business: {text}"
    );
    assert_eq!(hsup.stop().code, 0);
}
