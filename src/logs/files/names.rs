//! The names of log files: `web.1.log` while lines are written to it, `web.1.log.20261121T100000.000001Z` once it is put
//! aside, and with `.gz` once it is compressed. A directory may hold anything else besides, which is none of hsup's.

use std::time::SystemTime;

use crate::model::DynoName;

const COMPRESSED: &str = ".gz";

/// What a file is called while it is being compressed.
const TEMP: &str = ".gz.tmp";

/// What the digits of a time stand for; the rest of it is the same in all times.
const STAMP: &[u8] = b"00000000T000000.000000Z";

/// How far a file that was put aside has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is as it was written.
    Plain,
    /// It is half compressed.
    Temp,
    /// It is compressed.
    Compressed,
}

/// The name of a file that was put aside, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aside<'a> {
    /// Whose lines it has.
    pub(super) dyno: &'a str,
    /// Its name as long as it is plain.
    pub(super) plain: &'a str,
    /// How far it is.
    pub(super) stage: Stage,
}

impl<'a> Aside<'a> {
    /// Takes a name apart, if it is one that hsup gives to the last letter.
    pub(super) fn of(name: &'a str) -> Option<Self> {
        let (plain, stage) = match (name.strip_suffix(TEMP), name.strip_suffix(COMPRESSED)) {
            (Some(plain), _) => (plain, Stage::Temp),
            (None, Some(plain)) => (plain, Stage::Compressed),
            (None, None) => (name, Stage::Plain),
        };
        let (dyno, stamp) = plain.rsplit_once(".log.")?;
        let is_dyno = dyno.parse::<DynoName>().is_ok_and(|parsed| parsed.to_string() == dyno);
        (is_dyno && is_stamp(stamp.as_bytes())).then_some(Self { dyno, plain, stage })
    }
}

fn is_stamp(text: &[u8]) -> bool {
    let fits = |(given, wanted): (&u8, &u8)| match wanted {
        b'0' => given.is_ascii_digit(),
        _ => given == wanted,
    };
    text.len() == STAMP.len() && text.iter().zip(STAMP).all(fits)
}

/// The file to which lines of a dyno are written.
pub(super) fn live(dyno: &str) -> String {
    format!("{dyno}.log")
}

/// That file once it is put aside. Names of one dyno are in the order of their times.
pub(super) fn aside(dyno: &str, at: SystemTime) -> String {
    let stamp = humantime::format_rfc3339_micros(at).to_string().replace(['-', ':'], "");
    format!("{}.{stamp}", live(dyno))
}

/// When a file was put aside, by its plain name; none of a time that there is not, or that has none behind it.
pub(super) fn time_of(plain: &str) -> Option<SystemTime> {
    let (_, mut stamp) = plain.rsplit_once(".log.")?;
    let mut time = String::new();
    for (length, mark) in [(4, "-"), (2, "-"), (5, ":"), (2, ":")] {
        let (part, rest) = stamp.split_at_checked(length)?;
        time = time + part + mark;
        stamp = rest;
    }
    // A year has four digits.
    let last = time.starts_with("9999-12-31");
    humantime::parse_rfc3339(&(time + stamp)).ok().filter(|_| !last)
}

/// A plain name once the file is compressed.
pub(super) fn compressed(plain: &str) -> String {
    format!("{plain}{COMPRESSED}")
}

/// A plain name while the file is being compressed.
pub(super) fn temp(plain: &str) -> String {
    format!("{plain}{TEMP}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_hsup_has_named_is_known_again() {
        let plain = aside("web.1", SystemTime::UNIX_EPOCH);
        assert_eq!(plain, "web.1.log.19700101T000000.000000Z");
        for (name, stage) in [
            (plain.clone(), Stage::Plain),
            (temp(&plain), Stage::Temp),
            (compressed(&plain), Stage::Compressed),
        ] {
            assert_eq!(Aside::of(&name), Some(Aside { dyno: "web.1", plain: &plain, stage }));
        }
    }

    #[test]
    fn names_tell_their_times() {
        for at in [0, 1_000_001, 1_795_344_000_123_456].map(Duration::from_micros) {
            let at = SystemTime::UNIX_EPOCH + at;
            assert_eq!(time_of(&aside("web.1", at)), Some(at));
        }
        for stamp in ["20261399T100000.000000Z", "99991231T235959.999999Z"] {
            assert_eq!(time_of(&format!("web.1.log.{stamp}")), None);
        }
    }

    #[test]
    fn what_others_have_named_is_not() {
        for name in [
            "auth.log.1",
            "auth.log.2.gz",
            "app.log.2.xz",
            "tmp_report.csv",
            "web.1.log",
            "web.1.log.1",
            "web.1.log.2.gz",
            "web.1.log.20261121",
            "web.1.log.20261121T100000.000001Z.xz",
            "web.1.log.20261121T100000.000001Z.gz.gz",
            "web.1.log.2026112xT100000.000001Z",
            "web.01.log.20261121T100000.000001Z",
            "web.log.20261121T100000.000001Z.gz",
            ".log.20261121T100000.000001Z",
        ] {
            assert_eq!(Aside::of(name), None, "{name}");
        }
    }
}
