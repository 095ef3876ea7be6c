//! The names of users and groups, from `/etc/passwd` and `/etc/group`. Nothing else is asked: a static binary cannot
//! load what asks directories of a network, and those may be slow. What is not in these files has its number.

use std::fs;
use std::io;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The name of a user, where it is in `/etc/passwd`.
pub fn user_name(uid: u32) -> Option<String> {
    name_in(&fs::read_to_string(PASSWD).ok()?, uid)
}

/// A group that an operator has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name, or the number where that was given.
    pub name: String,
    /// The number.
    pub gid: u32,
}

/// There is no such group.
#[derive(Debug, thiserror::Error)]
pub enum NoGroup {
    /// It is not in the file.
    #[error("there is no group {name} in {GROUP}: make it with groupadd, or give the number of one")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read {GROUP}, so give the number of the group")]
    Unreadable(#[source] io::Error),
}

/// Finds a group by its name or its number.
///
/// # Errors
/// If there is none of that name.
pub fn group(name: &str) -> Result<Group, NoGroup> {
    let found = |gid| Group { name: name.to_owned(), gid };
    if let Ok(gid) = name.parse() {
        return Ok(found(gid));
    }
    let text = fs::read_to_string(GROUP).map_err(NoGroup::Unreadable)?;
    number_in(&text, name).map(found).ok_or_else(|| NoGroup::Unknown { name: name.to_owned() })
}

/// Name, password and number stand first in both files (passwd(5), group(5)).
fn entries(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, number.parse().ok()?))
    })
}

fn name_in(text: &str, number: u32) -> Option<String> {
    entries(text).find(|(_, found)| *found == number).map(|(name, _)| name.to_owned())
}

fn number_in(text: &str, name: &str) -> Option<u32> {
    entries(text).find(|(found, _)| *found == name).map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "root:x:0:\n# odd\n\nbroken:x\nops:x:1200:alice,bob\nops2:x:x:\nlast:x:1201:\n";

    #[test]
    fn names_and_numbers_are_found_and_broken_lines_left_aside() {
        assert_eq!((number_in(TEXT, "ops"), number_in(TEXT, "last")), (Some(1200), Some(1201)));
        assert_eq!(
            (number_in(TEXT, "op"), number_in(TEXT, "broken"), number_in(TEXT, "ops2")),
            (None, None, None)
        );
        assert_eq!((name_in(TEXT, 1201).as_deref(), name_in(TEXT, 7)), (Some("last"), None));
    }

    #[test]
    fn a_number_need_not_be_in_the_file() {
        assert_eq!(group("54321").unwrap(), Group { name: "54321".to_owned(), gid: 54321 });
        let error = group("no such group").unwrap_err().to_string();
        assert!(error.starts_with("there is no group no such group in /etc/group: "), "{error}");
    }
}
