//! The lines of a `.env` file. A line that is wrong is never shown: it may be a part of a secret.

use std::path::Path;

use super::error::LineError;
use super::lines;
use crate::model::{ConfigVars, VarName};

/// Adds the vars of a `.env` file to `vars`; of two with one name the last counts. What is wrong is added to
/// `errors`.
pub(super) fn add(file: &Path, bytes: &[u8], vars: &mut ConfigVars, errors: &mut Vec<LineError>) {
    for (number, line) in lines::of(bytes) {
        let set = line
            .and_then(assignment)
            .and_then(|(name, value)| vars.set(name, value).map_err(|error| error.to_string()));
        if let Err(problem) = set {
            errors.push(LineError { file: file.to_owned(), line: Some(number), problem });
        }
    }
}

fn assignment(line: &str) -> Result<(VarName, String), String> {
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        Some(_) | None => line,
    };
    let (name, value) = line
        .split_once('=')
        .ok_or("there is no `=`: write `NAME=value` (a line break within a value is \\n in double quotes)")?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(
            "the name before `=` may hold letters, digits and _ only, and no blank before the `=`".to_owned()
        );
    }
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok((name, unquote(value.trim())?))
}

/// The value within its quotes. Without quotes it is taken as it is, a `#` included, as foreman does.
fn unquote(value: &str) -> Result<String, String> {
    if let Some(rest) = value.strip_prefix('\'') {
        // foreman takes all between the first and the last quote
        let end =
            if value.len() > 1 && value.ends_with('\'') { rest.len() - 1 } else { closing(rest, '\'')? };
        return Ok(rest[..end].to_owned());
    }
    if let Some(rest) = value.strip_prefix('"') {
        return Ok(unescape(&rest[..closing(rest, '"')?]));
    }
    Ok(value.to_owned())
}

/// Where the closing quote is; only a comment may follow it.
fn closing(rest: &str, quote: char) -> Result<usize, String> {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote == '"' {
            escaped = true;
        } else if c == quote {
            let after = &rest[at + 1..];
            let comment = after.trim_start();
            if comment.is_empty() || (comment.starts_with('#') && comment.len() < after.len()) {
                return Ok(at);
            }
            return Err(format!(
                "something follows the closing {quote}: remove it, or write \\\" within double quotes"
            ));
        }
    }
    Err(format!(
        "the closing {quote} is missing: add it at the end of the line (a line break is \\n in double quotes)"
    ))
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_quotes() {
        for (line, value) in [
            ("A=x", "x"),
            ("A=", ""),
            ("A= x y # z ", "x y # z"),
            ("export A=x", "x"),
            ("export\tA=x=y", "x=y"),
            ("A='$x \\n \"'", "$x \\n \""),
            ("A='it's'", "it's"),
            ("A='x' # comment", "x"),
            (r#"A="a\nb \"c\" \\n""#, "a\nb \"c\" \\n"),
            (r#"A="x"  # "comment""#, "x"),
            ("A=\"\"", ""),
            ("A=\u{e9}", "\u{e9}"),
        ] {
            let (name, given) = assignment(line).unwrap();
            assert_eq!((name.as_str(), given.as_str()), ("A", value), "{line}");
        }
        assert_eq!(assignment("exported=1").unwrap().0.as_str(), "exported");
    }

    #[test]
    fn wrong_lines_are_told_without_what_they_hold() {
        let text = "OK=1\r\n\n# c\nexport s3cret\ns3c-ret=1\nA =s3cret\n=s3cret\nA='s3cret\nA=\"s3cret\nA=\"x\"s3cret\nPORT=s3cret\nA=s3cret\0";
        let mut vars = ConfigVars::default();
        let mut errors = Vec::new();
        add(Path::new(".env"), text.as_bytes(), &mut vars, &mut errors);
        let lines: Vec<_> = errors.iter().filter_map(|error| error.line).collect();
        assert_eq!(lines, [4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(errors.iter().all(|error| !error.to_string().contains("s3c")), "{errors:?}");
        assert_eq!(vars.get("OK"), Some("1"));
    }
}
