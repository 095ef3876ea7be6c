//! What is wrong with a control file, told without any value of it: a value may be a secret.

use std::fmt;

/// The most characters of a problem or a field that a message shows.
const MAX_SHOWN: usize = 300;

/// A place in a text. Lines and columns count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column. For a value that is wrong it is where the value ends.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why bytes are not a control file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Nothing but blanks.
    #[error("the file is empty: write a JSON object such as {{\"Version\": 1, \"Processes\": []}}")]
    Empty,
    /// Larger than any control file.
    #[error("the file is larger than {} MiB, the most a control file may have: it must name the slug, not hold it", limit / (1024 * 1024))]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Not text.
    #[error("byte {offset} (at {at}) is not UTF-8: save the file as UTF-8")]
    NotUtf8 {
        /// How many bytes stand before it.
        offset: usize,
        /// Where that is.
        at: Position,
        /// Whether the text ends within a character, so that more may come.
        unfinished: bool,
    },
    /// Not JSON, or not what a control file says.
    #[error("{at}{}: {problem}", in_field(field))]
    Invalid {
        /// Where.
        at: Position,
        /// The field as a user writes it, for instance `Processes[1].Type`; empty for the whole file.
        field: String,
        /// What is wrong and how to mend it.
        problem: String,
        /// Whether the text ends too early, so that more may come.
        unfinished: bool,
    },
}

fn in_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(", field {field}") }
}

impl ControlFileError {
    /// Whether the file may be the beginning of a good one that is still being written.
    pub fn is_unfinished(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::TooLarge { .. } => false,
            Self::NotUtf8 { unfinished, .. } | Self::Invalid { unfinished, .. } => *unfinished,
        }
    }

    /// The error of bytes that are not UTF-8.
    pub(super) fn not_utf8(bytes: &[u8], error: std::str::Utf8Error) -> Self {
        let offset = error.valid_up_to();
        let good = String::from_utf8_lossy(&bytes[..offset]);
        let line_start = good.rfind('\n').map_or(0, |newline| newline + 1);
        let at =
            Position { line: good.matches('\n').count() + 1, column: good[line_start..].chars().count() + 1 };
        Self::NotUtf8 { offset, at, unfinished: error.error_len().is_none() }
    }

    /// The error of a text that does not deserialise.
    pub(super) fn of_json(
        text: &str,
        error: &serde_json::Error,
        path: Option<&serde_path_to_error::Path>,
    ) -> Self {
        let said = error.to_string();
        let suffix = format!(" at line {} column {}", error.line(), error.column());
        let problem = said.strip_suffix(&suffix).unwrap_or(&said);
        Self::Invalid {
            at: position(text, error.line(), error.column(), problem.starts_with("invalid type: ")),
            field: path.map(show_path).unwrap_or_default(),
            problem: shorten(&mended(problem)),
            unfinished: error.is_eof(),
        }
    }
}

/// Turns the bytes that `serde_json` counts into characters. It names the byte it read last: where a bracket
/// is not what was `expected` that is one byte too early, and column 0 is the line break before.
fn position(text: &str, line: usize, column: usize, expected: bool) -> Position {
    let content = |line: usize| text.split('\n').nth(line.saturating_sub(1)).unwrap_or_default();
    let shown = content(line);
    let on_bracket = expected && matches!(shown.as_bytes().get(column), Some(b'[' | b'{'));
    let end = if on_bracket { column + 1 } else { column };
    if end == 0 && line > 1 {
        return Position { line: line - 1, column: content(line - 1).chars().count().max(1) };
    }
    let characters = shown.char_indices().take_while(|(start, _)| *start < end).count();
    Position { line: line.max(1), column: characters.max(1) }
}

fn show_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut shown = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => shown.push_str(&format!("[{index}]")),
            Segment::Map { key } => push_key(&mut shown, key),
            Segment::Enum { variant } => push_key(&mut shown, variant),
            Segment::Unknown => {}
        }
    }
    shorten(&shown)
}

/// Adds a key to a path as a user would write it.
pub(super) fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    match (plain, path.is_empty()) {
        (true, true) => path.push_str(key),
        (true, false) => path.push_str(&format!(".{key}")),
        (false, _) => path.push_str(&format!("[{key:?}]")),
    }
}

pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Takes values out of what serde says, and adds how to mend the slips that people make in JSON.
fn mended(problem: &str) -> String {
    if let Some(mismatch) =
        problem.strip_prefix("invalid type: ").or_else(|| problem.strip_prefix("invalid value: "))
        && let Some((found, expected)) = mismatch.rsplit_once(", expected ")
    {
        return format!("expected {expected}, found {}", kind_of(found));
    }
    let mend = match problem {
        "trailing comma" => "remove the comma before the closing bracket",
        "trailing characters" => "something follows where the JSON ends or a comma is due: remove or mend it",
        "key must be a string" => "field names stand in double quotes",
        "expected value" => "a value is due here: text in double quotes, a number, an object or an array",
        "expected `,` or `}`" => "a comma or a closing brace is missing before this place",
        "expected `,` or `]`" => "a comma or a closing bracket is missing before this place",
        "expected `:`" => "a colon is missing after the field name",
        "recursion limit exceeded" => "brackets are nested too deeply: take some away",
        "number out of range" => "write a smaller number",
        "invalid escape" => "write \\\\ for a backslash",
        _ if problem.starts_with("EOF while parsing") => {
            "the file ends too early: write the rest, or rename the finished file into place"
        }
        _ if problem.starts_with("control character") => "write \\n for a line break within text",
        _ => return problem.to_owned(),
    };
    format!("{problem}: {mend}")
}

/// The kind of a value in the words of JSON, from serde's words that also show the value.
fn kind_of(found: &str) -> &'static str {
    const KINDS: [(&str, &str); 8] = [
        ("string", "a string"),
        ("integer", "a number"),
        ("floating point", "a number"),
        ("number", "a number"),
        ("boolean", "true or false"),
        ("null", "null"),
        ("sequence", "an array"),
        ("map", "an object"),
    ];
    KINDS.into_iter().find(|(prefix, _)| found.starts_with(prefix)).map_or("something else", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_out_of_type_mismatches() {
        assert_eq!(
            mended("invalid type: string \"s3cret, expected x\", expected an object"),
            "expected an object, found a string"
        );
        assert_eq!(mended("invalid value: integer `42`, expected u8"), "expected u8, found a number");
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(position("a\n\u{e9}\u{e9}x", 2, 5, false), Position { line: 2, column: 3 });
        assert_eq!(position("", 1, 0, true), Position { line: 1, column: 1 });
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(shorten(&"\u{e9}".repeat(400)).chars().count(), MAX_SHOWN + 3);
    }
}
