//! The pictures of a terminal in the README: what the commands print there is what they print. With `UPDATE_README=1` the
//! README is written anew.

use std::env;
use std::fs;
use std::path::Path;

use hsup_ftest::{Driver, Ended, Room, is_about};

/// Where the picture begins, and where it ends.
const BEGIN: &str = "<!-- made by ftest/tests/readme.rs -->\n```console\n";
const END: &str = "```\n<!-- end -->\n";

/// The port of the first dyno, which nothing else on this host should have; in the picture it is 5000.
const PORT: u16 = 47_310;

/// What listens.
const WEB: &str = "exec python3 -m http.server $PORT";

/// What crashes, and is waited for.
const WORKER: &str = "echo no database >&2; exit 3";

fn printed(ended: Ended) -> String {
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stdout
}

/// The table without the widths of its columns, which depend on pids, times and amounts: each cell that is one of these
/// is a fixed one.
fn table(text: &str) -> String {
    let rows: Vec<Vec<String>> = text.lines().map(cells).collect();
    let headings = rows.first().expect("there are headings").clone();
    let fixed = |number: usize, row: &Vec<String>, column: usize| -> String {
        let cell = &row[column];
        let is_there = cell != "-" && row != &headings;
        match headings[column].as_str() {
            "ADDRESS" if is_there => {
                let port = cell.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port");
                format!("10.0.0.7:{}", port - PORT + 5000)
            }
            "PID" if is_there => (4210 + number).to_string(),
            "UP" if is_there => "3m 12s".to_owned(),
            "CPU" if is_there => "0.1s".to_owned(),
            "MEMORY" if is_there => "9216K".to_owned(),
            "RESTARTS" if is_there && cell != "0" => "4".to_owned(),
            "LAST EXIT" if is_there => {
                cell.split(',').next().map(|how| format!("{how}, 2s ago")).expect("it says how")
            }
            "NEXT RETRY" if is_there => "in 5s".to_owned(),
            _ => cell.clone(),
        }
    };
    let rows: Vec<Vec<String>> = (0..)
        .zip(&rows)
        .map(|(number, row)| (0..headings.len()).map(|column| fixed(number, row, column)).collect())
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let line = |row: &Vec<String>| {
        let padded =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:width$}", width = width(column)));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The cells of a line: two blanks or more part them.
fn cells(line: &str) -> Vec<String> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

/// Sentences with fixed times.
fn sentences(text: &str) -> String {
    let fixed = |line: &str| {
        let line = between(line, "ended ", " ago", "2s");
        let line = between(&line, "crashed ", " times", "5");
        between(&line, "started again in ", ";", "5s") + "\n"
    };
    text.lines().map(fixed).collect()
}

fn between(line: &str, before: &str, after: &str, fixed: &str) -> String {
    let begin = line.find(before).map(|at| at + before.len());
    let end = begin.and_then(|begin| line[begin..].find(after).map(|at| begin + at));
    match (begin, end) {
        (Some(begin), Some(end)) => format!("{}{fixed}{}", &line[..begin], &line[end..]),
        (None, _) | (_, None) => line.to_owned(),
    }
}

#[test]
fn the_readme_shows_what_ps_and_explain_print() {
    if !is_about(Driver::Simple) {
        return;
    }
    let room = Room::new();
    let app =
        room.app().version(3).field("Name", "shop").env("PORT", &PORT.to_string()).process("web", WEB, 2);
    room.release(&app.process("worker", WORKER, 1));
    let hsup = room.hsup(["start"]).without("HSUP_READINESS").up();
    for name in ["web.1", "web.2"] {
        hsup.wait_dyno(name, "is healthy", |dyno| dyno["Health"] == "healthy");
    }
    // long enough to ask twice
    hsup.wait_dyno("worker.1", "waits", |dyno| {
        dyno["State"] == "crashed" && dyno["Crashes"].as_u64() >= Some(4) && dyno["NextRetryAt"].is_string()
    });
    let ps = table(&printed(room.hsup(["ps"]).end()));
    let explained = sentences(&printed(room.hsup(["explain", "worker.1"]).end()));
    let picture = format!("$ hsup ps\n{ps}$ hsup explain worker.1\n{explained}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).expect("there is a README");
    let (before, rest) = readme.split_once(BEGIN).expect("the README has a picture");
    let (shown, after) = rest.split_once(END).expect("the picture ends");
    if env::var("UPDATE_README").as_deref() == Ok("1") {
        fs::write(&path, format!("{before}{BEGIN}{picture}{END}{after}")).expect("the README can be written");
    } else {
        assert_eq!(shown, picture, "the README shows something else: UPDATE_README=1 has this test mend it");
    }
}
