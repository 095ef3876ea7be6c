//! The lines of a text file that people edit, and those of a Procfile.

use std::path::Path;

use super::error::LineError;

use crate::model::{Command, Formation, Process, ProcessType, Quantity};

/// The process type of Heroku's release phase, which runs before dynos start and never as one of them.
const RELEASE_PHASE: &str = "release";

/// The lines that say something, each with its number and without blanks around it.
pub(super) fn of(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<&str, String>)> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    bytes.split(|byte| *byte == b'\n').enumerate().filter_map(|(index, line)| {
        let line = std::str::from_utf8(line)
            .map(str::trim)
            .map_err(|_| "the line is not UTF-8: save the file as UTF-8".to_owned());
        let says_nothing = line.as_ref().is_ok_and(|line| line.is_empty() || line.starts_with('#'));
        (!says_nothing).then_some((index + 1, line))
    })
}

/// Reads a Procfile; what is wrong is added to `errors`.
pub(super) fn formation(file: &Path, bytes: &[u8], errors: &mut Vec<LineError>) -> Formation {
    let mut formation = Formation::default();
    let before = errors.len();
    for (number, line) in of(bytes) {
        let added = line
            .and_then(process)
            .and_then(|process| formation.add(process).map_err(|error| error.to_string()));
        if let Err(problem) = added {
            errors.push(LineError { file: file.to_owned(), line: Some(number), problem });
        }
    }
    if formation.iter().next().is_none() && errors.len() == before {
        let problem = "it names no process type: add a line such as `web: python3 -m http.server $PORT`";
        errors.push(LineError { file: file.to_owned(), line: None, problem: problem.to_owned() });
    }
    formation
}

fn process(line: &str) -> Result<Process, String> {
    let (name, command) = line
        .split_once(':')
        .ok_or("there is no colon: write `TYPE: COMMAND`, such as `web: python3 -m http.server $PORT`")?;
    let process_type: ProcessType = name.trim_end().parse().map_err(|error| format!("{error}"))?;
    let command = Command::try_from(vec![command.trim().to_owned()]).map_err(|error| error.to_string())?;
    let quantity = if process_type.as_str() == RELEASE_PHASE { Quantity::default() } else { Quantity::ONE };
    Ok(Process::new(process_type, command, quantity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Vec<(String, String, u32)>, Vec<String>) {
        let mut errors = Vec::new();
        let formation = formation(Path::new("Procfile"), text, &mut errors);
        let processes = formation
            .iter()
            .map(|p| (p.process_type.to_string(), p.command.args().concat(), p.quantity.get()))
            .collect();
        (processes, errors.iter().map(LineError::to_string).collect())
    }

    #[test]
    fn types_and_commands() {
        let text =
            "\u{feff}# comment\r\n\r\nweb: ./web -p $PORT # kept\r\nrelease:  ./migrate\r\nwork_er-2 :a:b";
        let (processes, errors) = read(text.as_bytes());
        assert_eq!(errors, Vec::<String>::new());
        let text = |a: &str, b: &str, n| (a.to_owned(), b.to_owned(), n);
        assert_eq!(
            processes,
            [
                text("web", "./web -p $PORT # kept", 1),
                text("release", "./migrate", 0),
                text("work_er-2", "a:b", 1)
            ]
        );
    }

    #[test]
    fn each_wrong_line_is_told() {
        let (_, errors) = read(b"web ./web\nweb:\na b: x\nok: x\nok: y\nrun: x\nx: \xff\n");
        let parts = [
            ("Procfile:1: ", "no colon"),
            ("Procfile:2: ", "command is empty"),
            ("Procfile:3: ", "process type \"a b\""),
            ("Procfile:5: ", "ok is defined twice"),
            ("Procfile:6: ", "rename it"),
            ("Procfile:7: ", "not UTF-8"),
        ];
        assert_eq!(errors.len(), parts.len(), "{errors:?}");
        for (error, (place, part)) in errors.iter().zip(parts) {
            assert!(error.starts_with(place) && error.contains(part), "{error}");
        }
        let (_, errors) = read(b"# nothing\n");
        assert!(errors[0].starts_with("Procfile: it names no process type"), "{errors:?}");
    }
}
