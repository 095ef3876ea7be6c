//! Golden files, and a table of bad ones with the exact place and field of each fault.

use proptest::prelude::*;

use super::super::to_json;
use super::*;
use crate::model::SlugLocation;

const README: &str = r#"{
  "Version": 1,
  "Env": {
    "NAME": "CONTENTS"
  },
  "Slug": "sample-slug.tgz",
  "Stack": "cedar-14",
  "Processes": [
    {
      "Args": ["./web-server", "arg"],
      "Quantity": 2,
      "Type": "web"
    },
    {
      "Args": ["./worker", "arg"],
      "Quantity": 2,
      "Type": "worker"
    }
  ]
}
"#;

fn app() -> AppName {
    "myapp".parse().unwrap()
}

fn parsed(text: &str) -> Parsed {
    parse(text.as_bytes(), &app()).unwrap()
}

#[test]
fn the_example_of_the_readme() {
    let Parsed { release, warnings } = parsed(README);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((release.app.as_str(), release.version.0), ("myapp", 1));
    assert_eq!(release.config.get("NAME"), Some("CONTENTS"));
    assert_eq!(release.slug, Some(SlugLocation::Path("sample-slug.tgz".into())));
    assert_eq!(release.stack.as_ref().map(|stack| stack.as_str()), Some("cedar-14"));
    assert_eq!((release.slug_checksum, &release.logplex_url), (None, &None));
    let formation: Vec<_> = release
        .formation
        .iter()
        .map(|p| (p.process_type.as_str(), p.command.args().join(" "), p.quantity.get()))
        .collect();
    assert_eq!(
        formation,
        [("web", "./web-server arg".to_owned(), 2), ("worker", "./worker arg".to_owned(), 2)]
    );
}

#[test]
fn what_is_written_is_golden_and_reads_back() {
    let release = parsed(README).release;
    let golden = r#"{"Version":1,"Name":"myapp","Env":{"NAME":"CONTENTS"},"Slug":"sample-slug.tgz","Stack":"cedar-14","Processes":[{"Args":["./web-server","arg"],"Quantity":2,"Type":"web"},{"Args":["./worker","arg"],"Quantity":2,"Type":"worker"}]}"#;
    assert_eq!(String::from_utf8(to_json(&release)).unwrap(), golden);
    assert_eq!(parse(golden.as_bytes(), &"other".parse().unwrap()).unwrap().release, release);

    let full = format!(
        r#"{{"Version":3,"Name":"a","Env":{{}},"Slug":"https://u:p@h/s?x=1","SlugChecksum":"SHA256:{}","Processes":[],"LogplexURL":"https://t:pw@h/logs"}}"#,
        "0f".repeat(32)
    );
    assert_eq!(String::from_utf8(to_json(&parsed(&full).release)).unwrap(), full);
}

#[test]
fn null_and_empty_count_as_missing() {
    let bare = parsed(r#"{"Version": 0}"#);
    for same in [
        r#"{"Version":0,"Name":"","Env":{},"Slug":"","SlugChecksum":"","Stack":"","Processes":[],"LogplexURL":""}"#,
        r#"{"Version":0,"Name":null,"Env":null,"Slug":null,"Stack":null,"Processes":null,"LogplexURL":null}"#,
        "\u{feff}{\"Version\":0}\r\n",
    ] {
        assert_eq!(parsed(same), bare, "{same}");
    }
    let one = parsed(r#"{"Version":0,"Processes":[{"Type":"web","Args":["x"]}]}"#).release;
    assert_eq!(one.formation.iter().map(|p| p.quantity.get()).collect::<Vec<_>>(), [1]);
}

#[test]
fn limits_are_an_object_or_the_text_of_the_flag() {
    let limits = |limits: &str| {
        let process = format!(r#"{{"Type":"web","Args":["x"],"Limits":{limits}}}"#);
        let file = parsed(&format!(r#"{{"Version":1,"Processes":[{process}]}}"#));
        file.release.formation.iter().next().unwrap().limits.to_string()
    };
    for same in [r#"{"Memory":"32MiB","Cpu":0.5}"#, r#""memory=32MiB,cpu=0.5""#] {
        assert_eq!(limits(same), "memory=32MiB,cpu=0.5", "{same}");
    }
    assert_eq!((limits("null"), limits("\"\"")), (String::new(), String::new()));
}

#[test]
fn unknown_fields_warn_and_case_is_hinted_at() {
    let text = r#"{"Version":1,"slug":"x","Env":{"slug":"y"},"Deep":[[{}]],
        "Processes":[{"Type":"web","Args":["x"],"quantity":3,"A b":null}]}"#;
    assert_eq!(
        parsed(text).warnings,
        [
            "unknown field slug is ignored; did you mean \"Slug\"?",
            "unknown field Deep is ignored",
            "unknown field Processes[0].quantity is ignored; did you mean \"Quantity\"?",
            "unknown field Processes[0][\"A b\"] is ignored",
        ]
    );
    let many: String = (0..50).map(|n| format!(",\"x{n}\":{n}")).collect();
    assert_eq!(parsed(&format!("{{\"Version\":1{many}}}")).warnings.len(), MAX_WARNINGS + 1);
}

/// Text, line, column, field, a part of the problem.
const BAD: &[(&str, usize, usize, &str, &str)] = &[
    ("{}", 1, 2, "", "\"Version\" is missing or null: add one"),
    ("{\"version\":1\n}", 2, 1, "", "write \"version\" as \"Version\""),
    ("{\"Version\":1,\n\"Proceses\":[]}", 2, 14, "", "\"Proceses\" is no field"),
    ("[1]", 1, 1, "", "expected an object such as {\"Version\": 1, \"Processes\": []}, found an array"),
    ("{\n \"Version\": -1}", 2, 14, "Version", "negative"),
    ("{\"Version\": 1.5}", 1, 15, "Version", "fraction"),
    ("{\"Version\": \"1\"}", 1, 15, "Version", "without quotes, found a string"),
    ("{\"Version\":1,\"Version\":2}", 1, 22, "", "\"Version\" stands twice"),
    ("{\"Version\":1,\n\"Name\":\"a/b\"}", 2, 12, "Name", "app name \"a/b\" is not valid"),
    ("{\"Version\":1,\"Slug\":\"ftp://h/x\"}", 1, 31, "Slug", "its scheme is not known"),
    ("{\"Version\":1,\"SlugChecksum\":\"md5:1\"}", 1, 35, "SlugChecksum", "write SHA256:"),
    ("{\"Version\":1,\"Stack\":7}", 1, 22, "Stack", "text in double quotes, found a number"),
    ("{\"Version\":1,\"Env\":[]}", 1, 20, "Env", "object of config vars"),
    ("{\"Version\":1,\"Env\":{\"A\":1}}", 1, 25, "Env.A", "text in double quotes, found a number"),
    ("{\"Version\":1,\"Env\":{\"A\":null}}", 1, 29, "Env", "config var \"A\" is null"),
    ("{\"Version\":1,\"Env\":{\"A\":\"1\",\n\"A\":\"2\"}}", 2, 3, "Env", "\"A\" stands twice"),
    ("{\"Version\":1,\"Env\":{\"PORT\":\"http\"}}", 1, 33, "Env.PORT", "from 1 to 65535"),
    ("{\"Version\":1,\"Env\":{\"A=B\":\"x\"}}", 1, 29, "Env[\"A=B\"]", "must not be empty"),
    ("{\"Version\":1,\"LogplexURL\":\"h\"}", 1, 29, "LogplexURL", "syslog+tls://"),
    ("{\"Version\":1,\"Processes\":{}}", 1, 26, "Processes", "an array of process types"),
    ("{\"Version\":1,\"Processes\":[\n7]}", 2, 1, "Processes[0]", "a process type such as"),
    ("{\"Version\":1,\"Processes\":[{\"Args\":[\"x\"]\n}]}", 2, 1, "Processes[0]", "\"Type\" is missing"),
    ("{\"Version\":1,\"Processes\":[{\"Type\":\"web\"}]}", 1, 40, "Processes[0]", "\"Args\" is missing"),
    (
        "{\"Version\":1,\"Processes\":[{\"Type\":\"a\",\"Args\":[\"x\"]},\n{\"Type\":\"a\",\n\"Args\":[\"x\"]}]}",
        2,
        11,
        "Processes[1].Type",
        "a is defined twice",
    ),
    ("{\"Version\":1,\"Processes\":[{\"Type\":\"run\"}]}", 1, 39, "Processes[0].Type", "one-off"),
    (
        "{\"Version\":1,\"Processes\":[{\"Type\":\"a b\"}]}",
        1,
        39,
        "Processes[0].Type",
        "process type \"a b\"",
    ),
    ("{\"Version\":1,\"Processes\":[{\"Type\":\"\"}]}", 1, 36, "Processes[0].Type", "it is empty"),
    ("{\"Version\":1,\"Processes\":[{\"Args\":[ ]\n}]}", 1, 37, "Processes[0].Args", "command is empty"),
    (
        "{\"Version\":1,\"Processes\":[{\"Args\":[1]}]}",
        1,
        36,
        "Processes[0].Args[0]",
        "a string, found a number",
    ),
    ("{\"Version\":1,\"Processes\":[{\"Args\":\"x\"}]}", 1, 37, "Processes[0].Args", "an array of strings"),
    ("{\"Version\":1,\"Processes\":[{\"Quantity\":10001}]}", 1, 43, "Processes[0].Quantity", "above 10000"),
    ("{\"Version\":1,\"Processes\":[{\"Quantity\":-1}]}", 1, 40, "Processes[0].Quantity", "negative"),
    ("{\"Version\":1,\"Processes\":[{\"Limits\":7}]}", 1, 37, "Processes[0].Limits", "expected limits, as"),
    (
        "{\"Version\":1,\"Processes\":[{\"Limits\":\"memory=7\"}]}",
        1,
        46,
        "Processes[0].Limits",
        "memory 7 has no unit",
    ),
    (
        "{\"Version\":1,\"Processes\":[{\"Limits\":{\"Memory\":7}}]}",
        1,
        47,
        "Processes[0].Limits.Memory",
        "memory 7 has no unit",
    ),
    ("{\"Version\":1,}", 1, 14, "", "remove the comma"),
    ("{\"Version\":1} x", 1, 15, "", "trailing characters"),
    ("{Version:1}", 1, 2, "", "double quotes"),
    ("{\"Version\" 1}", 1, 12, "", "colon"),
    ("{\"\u{e9}\":1,\n\"Slug\":\"\u{e9}\n\"}", 2, 9, "Slug", "write \\n"),
    ("{\"Version\":1", 1, 12, "", "ends too early"),
];

#[test]
fn each_fault_names_its_place_its_field_and_its_mend() {
    let mut wrong = Vec::new();
    for (text, line, column, field, part) in BAD {
        match parse(text.as_bytes(), &app()) {
            Err(ControlFileError::Invalid { at, field: f, problem, unfinished }) => {
                let same = (at.line, at.column, f.as_str()) == (*line, *column, *field);
                if !same || !problem.contains(part) || unfinished != part.contains("too early") {
                    wrong.push(format!(
                        "{text}\n  gave {at} {f:?} {problem}\n  want {line}:{column} {field:?} {part}"
                    ));
                }
            }
            other => wrong.push(format!("{text}\n  gave {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_beginning_of_a_good_file_is_unfinished() {
    let text = README.replace("CONTENTS", "gr\u{fc}n \\u00fc\\n").trim_end().to_owned();
    for end in 0..text.len() {
        let error = parse(&text.as_bytes()[..end], &app()).unwrap_err();
        assert!(error.is_unfinished(), "{end}: {error}");
    }
}

#[test]
fn what_is_no_text_or_too_large_is_refused() {
    let error = parse(b"{\n\"a\xff\"", &app()).unwrap_err();
    assert_eq!(error.to_string(), "byte 4 (at line 2, column 3) is not UTF-8: save the file as UTF-8");
    assert!(!error.is_unfinished());
    let error = parse(&vec![b' '; MAX_BYTES + 1], &app()).unwrap_err();
    assert!(error.to_string().contains("larger than 16 MiB"), "{error}");
    assert_eq!(parse(b" \n", &app()), Err(ControlFileError::Empty));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(deep.as_bytes(), &app()).is_err());
    let unknown = format!("{{\"Version\":1,\"X\":{deep}}}");
    assert_eq!(parsed(&unknown).warnings, ["unknown field X is ignored"]);
}

#[test]
fn no_message_shows_a_secret() {
    let secret = "s3cret";
    let texts = [
        r#"{"Version":1,"Env":"s3cret"}"#,
        r#"{"Version":1,"Env":{"A":["s3cret"]}}"#,
        r#"{"Version":1,"Env":{"PORT":"s3cret"}}"#,
        r#"{"Version":1,"Env":{"A":"s3cret\u0000"}}"#,
        r#"{"Version":1,"Env":{"A":"s3cret"#,
        r#"{"Version":1,"Env":{"A":"s3cret\q"}}"#,
        r#"{"Version":1,"Env":{"A":"s3cret"},"Env":{"A":"s3cret"}}"#,
        r#"{"Version":"s3cret"}"#,
        r#"{"Version":1,"LogplexURL":"ftp://t:s3cret@h"}"#,
        r#"{"Version":1,"LogplexURL":"https://t:s3cret@"}"#,
        r#"{"Version":1,"LogplexURL":"https://t:s3cret@h:x"}"#,
        r#"{"Version":1,"LogplexURL":{"s":"s3cret"}}"#,
        r#"{"Version":1,"Slug":"ftp://u:s3cret@h/x?s3cret"}"#,
    ];
    for text in texts {
        let error = parse(text.as_bytes(), &app()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
    let fine = parsed(
        r#"{"Version":1,"env":{"A":"s3cret"},"LogplexURL":"https://t:s3cret@h","Env":{"A":"s3cret"}}"#,
    );
    assert!(!format!("{fine:?}").contains(secret), "{fine:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, &app());
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0..README.len(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = README.as_bytes().to_vec();
        bytes[at] = byte;
        bytes.truncate(if cut { at + 1 } else { bytes.len() });
        let _ = parse(&bytes, &app()).map_err(|error| error.to_string());
    }
}
