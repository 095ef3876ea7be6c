//! From the command of a process type to a program and its arguments.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::StartError;

/// A command as one line for a shell: one element is the line itself; of several, those that hold blanks,
/// quotes or nothing are quoted, so that they stay one word, and all are joined by spaces.
pub fn shell_line(args: &[String]) -> String {
    match args {
        [line] => line.clone(),
        args => args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" "),
    }
}

fn quoted(arg: &str) -> String {
    if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || "'\"\\".contains(c)) {
        format!("'{}'", arg.replace('\'', r"'\''"))
    } else {
        arg.to_owned()
    }
}

/// The words of a line that holds nothing a shell would have to interpret, so that it can be executed without
/// one: a shell's start costs more than the start of a small program. A leading `exec` says just that.
pub fn plain_words(line: &str) -> Option<Vec<&str>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || " \t_-./:,@%+=^".contains(c);
    if !line.chars().all(plain) {
        return None;
    }
    let words = line.split_ascii_whitespace().collect::<Vec<_>>();
    let words = match words.as_slice() {
        ["exec", rest @ ..] if !rest.is_empty() => rest.to_vec(),
        _ => words,
    };
    let first = *words.first()?;
    let needs_shell = first.contains('=') || first.starts_with('-') || SHELL_WORDS.contains(&first);
    (!needs_shell).then_some(words)
}

/// bash's own words: `help` lists them. Some exist as programs as well, with other options.
const SHELL_WORDS: &[&str] = &[
    "%",
    ".",
    ":",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "case",
    "cd",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "do",
    "done",
    "echo",
    "elif",
    "else",
    "enable",
    "esac",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "fi",
    "for",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "if",
    "in",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "then",
    "time",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "until",
    "wait",
    "while",
];

/// Finds a program as execvp(3) does: by path if it names one (relative to `dir`), else along `search`.
///
/// # Errors
/// If it is not there, or not executable.
pub fn find_program(program: &str, search: &str, dir: &Path) -> Result<PathBuf, StartError> {
    let not_found = |place: String| StartError::NotFound { program: program.to_owned(), place };
    if program.contains('/') {
        let path = dir.join(program);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(not_found(format!("in {}", dir.display())))
            }
            Err(source) => Err(StartError::NotExecutable { path, source }),
        };
    }
    let mut unusable = None;
    for path in search.split(':').map(|entry| dir.join(entry).join(program)) {
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => unusable = Some(StartError::NotExecutable { path, source }),
        }
    }
    Err(unusable.unwrap_or_else(|| not_found(format!("on the dyno's PATH ({search})"))))
}

fn executable(path: &Path) -> io::Result<()> {
    access(path, AccessFlags::X_OK)?;
    if path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    Ok(())
}

/// A text for the kernel. Callers hand in texts that were checked when they were parsed.
///
/// # Errors
/// If it holds a NUL byte.
pub fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, StartError> {
    CString::new(text).map_err(|error| StartError::System {
        operation: "hand the command and its environment to the kernel",
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> String {
        shell_line(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_element_is_a_line_and_several_are_words() {
        assert_eq!(line(&["echo  $A 'b'"]), "echo  $A 'b'");
        assert_eq!(line(&["./web", "-p", "$PORT"]), "./web -p $PORT");
        assert_eq!(line(&["echo", "a  b", "", "it's"]), r"echo 'a  b' '' 'it'\''s'");
    }

    #[test]
    fn only_lines_without_shell_syntax_are_plain() {
        assert_eq!(plain_words("exec sleep 5"), Some(vec!["sleep", "5"]));
        assert_eq!(plain_words("./web --port=80 a:b"), Some(vec!["./web", "--port=80", "a:b"]));
        for line in [
            "a $B",
            "a | b",
            "a;b",
            "A=1 b",
            "cd /x",
            "a*",
            "~/x",
            "a 'b'",
            "exec",
            "",
            "a # b",
            "a &",
            "exec -a x y",
        ] {
            assert_eq!(plain_words(line), None, "{line}");
        }
    }

    #[test]
    fn programs_are_found_as_execvp_does() {
        let root = Path::new("/");
        assert_eq!(find_program("sh", "/nowhere:/bin", root).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_program("bin/sh", "", root).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_program("no-such-program", "/bin", root).unwrap_err().status(), 127);
        assert_eq!(find_program("/no/such/program", "", root).unwrap_err().status(), 127);
        assert_eq!(find_program("/etc/passwd", "", root).unwrap_err().status(), 126);
        assert_eq!(find_program("/etc", "", root).unwrap_err().status(), 126);
    }
}
