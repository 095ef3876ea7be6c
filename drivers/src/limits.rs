//! What a dyno may use of the host: the values, and how people write them.
//!
//! Nothing here knows how a limit is kept; that is the driver's.

mod json;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The least memory that a dyno can be limited to: with less not even a shell gets as far as its first line, and
/// the mistake (`1KiB` for `1GiB`) would show as a dyno that crashes for no reason.
pub const MIN_MEMORY_BYTES: u64 = 1 << 20;
/// The least CPU: the kernel takes no quota below 1 ms, which is a hundredth of the period that it is of.
pub const MIN_CPU_MILLIS: u32 = 10;
/// The fewest processes: the dyno's init and its main process.
pub const MIN_PIDS: u32 = 2;
/// The highest weight of I/O that the kernel knows.
pub const MAX_IO_WEIGHT: u16 = 10_000;

/// The units of memory: those that serialising chooses from first, the greatest first among these.
const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("kB", 1000),
];

/// What a dyno may use of the host, each `None` being no limit.
///
/// As text it is a list, `memory=512MiB,swap=0,cpu=0.5,pids=256,io=100`; in JSON an object, `{"Memory": "512MiB",
/// "Swap": "0", "Cpu": 0.5, "Pids": 256, "IoWeight": 100}`, in which numbers may be texts too. JSON may have the list as
/// well, as whoever knows the flag writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, remote = "Self")]
pub struct Limits {
    /// Memory, page cache included.
    #[serde(
        rename = "Memory",
        deserialize_with = "json::memory",
        serialize_with = "json::bytes_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub memory_bytes: Option<u64>,
    /// Swap on top of the memory.
    #[serde(
        rename = "Swap",
        deserialize_with = "json::swap",
        serialize_with = "json::bytes_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub swap_bytes: Option<u64>,
    /// CPU time in thousandths of a core.
    #[serde(
        rename = "Cpu",
        deserialize_with = "json::cpu",
        serialize_with = "json::cpu_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub cpu_millis: Option<u32>,
    /// Processes and threads, the dyno's init among them.
    #[serde(deserialize_with = "json::pids", skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// The share of a busy disk, relative to that of other dynos; 100 is that of one without the limit.
    #[serde(deserialize_with = "json::io_weight", skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
}

/// A limit was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// An amount of memory or swap without a unit.
    #[error("{limit} {text} has no unit: write {text}MiB, {text}MB or whatever is meant")]
    NoUnit {
        /// `memory` or `swap`.
        limit: &'static str,
        /// What was written.
        text: String,
    },
    /// No amount of memory or swap.
    #[error("{limit} \"{text}\" is not understood: write a number and a unit, as 512MiB, 1GiB or 500MB")]
    Bytes {
        /// `memory` or `swap`.
        limit: &'static str,
        /// What was written.
        text: String,
    },
    /// Less memory than any dyno needs.
    #[error("memory {text} is too little for any dyno: write 1MiB or more")]
    LittleMemory {
        /// What was written.
        text: String,
    },
    /// No amount of CPU.
    #[error(
        "cpu \"{text}\" is not understood: write cores, as 0.5 or 2, or thousandths of a core, as 500m; \
         the least is 0.01"
    )]
    Cpu {
        /// What was written.
        text: String,
    },
    /// No number of processes.
    #[error("pids \"{text}\" is not understood: write a whole number from {MIN_PIDS} on, as 256")]
    Pids {
        /// What was written.
        text: String,
    },
    /// No weight of I/O.
    #[error(
        "io \"{text}\" is not understood: write a weight from 1 to {MAX_IO_WEIGHT}; the usual one is 100"
    )]
    IoWeight {
        /// What was written.
        text: String,
    },
    /// No limit of that name.
    #[error("there is no limit \"{name}\": write memory, swap, cpu, pids or io, as memory=512MiB,cpu=0.5")]
    Unknown {
        /// What was written.
        name: String,
    },
    /// A name without a value.
    #[error("limit \"{text}\" has no value: write name=value, as memory=512MiB,cpu=0.5")]
    NoValue {
        /// What was written.
        text: String,
    },
    /// A limit that stands twice in a list.
    #[error("limit {name} is given twice: write it once")]
    Twice {
        /// Its name.
        name: String,
    },
}

impl Limits {
    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, and for what they leave open, those.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.or(defaults.memory_bytes),
            swap_bytes: self.swap_bytes.or(defaults.swap_bytes),
            cpu_millis: self.cpu_millis.or(defaults.cpu_millis),
            pids: self.pids.or(defaults.pids),
            io_weight: self.io_weight.or(defaults.io_weight),
        }
    }
}

/// Reads an amount of memory: `512MiB`.
///
/// # Errors
/// If it is none, has no unit or is too little.
pub fn parse_memory(text: &str) -> Result<u64, LimitError> {
    let bytes = parse_bytes("memory", text)?;
    if bytes < MIN_MEMORY_BYTES { Err(LimitError::LittleMemory { text: text.to_owned() }) } else { Ok(bytes) }
}

/// Reads an amount of bytes, for something else than a limit: `64MiB`; none where it is none or has no unit.
pub fn parse_size(text: &str) -> Option<u64> {
    parse_bytes("size", text).ok()
}

/// Reads an amount of swap: `1GiB`, or `0` for none.
///
/// # Errors
/// If it is none or has no unit.
pub fn parse_swap(text: &str) -> Result<u64, LimitError> {
    parse_bytes("swap", text)
}

/// Reads an amount of CPU, in cores (`0.5`, `2`) or thousandths of one (`500m`), as the latter.
///
/// # Errors
/// If it is none, less than a hundredth of a core or finer than thousandths.
pub fn parse_cpu(text: &str) -> Result<u32, LimitError> {
    let text = text.trim();
    let millis = match text.strip_suffix('m') {
        Some(millis) => scaled(millis, 1),
        None => scaled(text, 1000),
    };
    let millis = millis.and_then(|millis| u32::try_from(millis).ok());
    millis.filter(|millis| *millis >= MIN_CPU_MILLIS).ok_or_else(|| LimitError::Cpu { text: text.to_owned() })
}

/// Reads a number of processes.
///
/// # Errors
/// If it is none or too low for any dyno.
pub fn parse_pids(text: &str) -> Result<u32, LimitError> {
    let text = text.trim();
    let pids = text.parse().ok().filter(|pids| *pids >= MIN_PIDS);
    pids.ok_or_else(|| LimitError::Pids { text: text.to_owned() })
}

/// Reads a weight of I/O.
///
/// # Errors
/// If it is none.
pub fn parse_io_weight(text: &str) -> Result<u16, LimitError> {
    let text = text.trim();
    let weight = text.parse().ok().filter(|weight| (1..=MAX_IO_WEIGHT).contains(weight));
    weight.ok_or_else(|| LimitError::IoWeight { text: text.to_owned() })
}

fn parse_bytes(limit: &'static str, text: &str) -> Result<u64, LimitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    if unit.is_empty() {
        return match scaled(number, 1) {
            Some(0) => Ok(0),
            Some(_) => Err(LimitError::NoUnit { limit, text: text.to_owned() }),
            None => Err(LimitError::Bytes { limit, text: text.to_owned() }),
        };
    }
    let unit = UNITS.iter().find(|(name, _)| *name == unit);
    let bytes = unit.and_then(|(_, bytes)| scaled(number, *bytes));
    bytes.ok_or_else(|| LimitError::Bytes { limit, text: text.to_owned() })
}

/// A decimal number times `unit`, where that is a whole number.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = digits.checked_mul(unit.into())?;
    if product.is_multiple_of(divisor) { u64::try_from(product / divisor).ok() } else { None }
}

/// An amount of bytes in the greatest unit in which it is a whole number.
fn bytes_to_text(bytes: u64) -> String {
    let fits = |unit: &&(&str, u64)| bytes >= unit.1 && bytes.is_multiple_of(unit.1);
    UNITS.iter().find(fits).map_or_else(|| "0".to_owned(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// Thousandths of a core in cores.
fn cpu_to_text(millis: u32) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl FromStr for Limits {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let mut limits = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let no_value = || LimitError::NoValue { text: item.to_owned() };
            let (name, value) = item.split_once('=').ok_or_else(no_value)?;
            let (name, value) = (name.trim(), value.trim());
            if value.is_empty() {
                return Err(no_value());
            }
            let twice = match name {
                "memory" => limits.memory_bytes.replace(parse_memory(value)?).is_some(),
                "swap" => limits.swap_bytes.replace(parse_swap(value)?).is_some(),
                "cpu" => limits.cpu_millis.replace(parse_cpu(value)?).is_some(),
                "pids" => limits.pids.replace(parse_pids(value)?).is_some(),
                "io" => limits.io_weight.replace(parse_io_weight(value)?).is_some(),
                _ => return Err(LimitError::Unknown { name: name.to_owned() }),
            };
            if twice {
                return Err(LimitError::Twice { name: name.to_owned() });
            }
        }
        Ok(limits)
    }
}

impl fmt::Display for Limits {
    /// As the list that it can be parsed from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = [
            ("memory", self.memory_bytes.map(bytes_to_text)),
            ("swap", self.swap_bytes.map(bytes_to_text)),
            ("cpu", self.cpu_millis.map(cpu_to_text)),
            ("pids", self.pids.map(|pids| pids.to_string())),
            ("io", self.io_weight.map(|weight| weight.to_string())),
        ];
        let items: Vec<String> =
            items.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
        f.write_str(&items.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Limits {
        Limits {
            memory_bytes: Some(512 << 20),
            swap_bytes: Some(0),
            cpu_millis: Some(500),
            pids: Some(256),
            io_weight: Some(100),
        }
    }

    #[test]
    fn list_is_read_and_written() {
        let text = "memory=512MiB,swap=0,cpu=0.5,pids=256,io=100";
        assert_eq!(text.parse(), Ok(full()));
        assert_eq!(full().to_string(), text);
        assert_eq!(" cpu = 500m , ".parse::<Limits>().unwrap().cpu_millis, Some(500));
        assert!("".parse::<Limits>().unwrap().is_empty());
        assert!(!full().is_empty());
    }

    #[test]
    fn errors_say_what_to_write() {
        let said = [
            ("memory=512", "memory 512 has no unit: write 512MiB, 512MB or whatever is meant"),
            (
                "memory=lots",
                "memory \"lots\" is not understood: write a number and a unit, as 512MiB, 1GiB or 500MB",
            ),
            (
                "swap=1Gib",
                "swap \"1Gib\" is not understood: write a number and a unit, as 512MiB, 1GiB or 500MB",
            ),
            ("memory=1KiB", "memory 1KiB is too little for any dyno: write 1MiB or more"),
            ("memory=0", "memory 0 is too little for any dyno: write 1MiB or more"),
            (
                "cpu=0.005",
                "cpu \"0.005\" is not understood: write cores, as 0.5 or 2, or thousandths of a core, as 500m; \
                 the least is 0.01",
            ),
            ("pids=1", "pids \"1\" is not understood: write a whole number from 2 on, as 256"),
            ("io=0", "io \"0\" is not understood: write a weight from 1 to 10000; the usual one is 100"),
            (
                "ram=1GiB",
                "there is no limit \"ram\": write memory, swap, cpu, pids or io, as memory=512MiB,cpu=0.5",
            ),
            ("memory", "limit \"memory\" has no value: write name=value, as memory=512MiB,cpu=0.5"),
            ("pids=", "limit \"pids=\" has no value: write name=value, as memory=512MiB,cpu=0.5"),
            ("pids=3,pids=4", "limit pids is given twice: write it once"),
        ];
        for (text, message) in said {
            assert_eq!(text.parse::<Limits>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn bytes_have_units() {
        let good = [
            ("500MB", 500_000_000),
            ("1.5GiB", 3 << 29),
            ("2 TiB", 2 << 40),
            ("1048576B", 1 << 20),
            ("1.048576MB", 1 << 20),
            ("2048kB", 2_048_000),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for bad in ["1.2345678901MiB", "-1MiB", "1..5GiB", "GiB", ".5GiB", "99999999999TiB", "1e3MiB", ""] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
        for (bytes, text) in [(0, "0"), (1, "1B"), (1536, "1536B"), (500_000_000, "488281.25KiB")] {
            let written = bytes_to_text(bytes);
            assert_eq!(parse_swap(&written), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn cpu_is_cores_or_thousandths() {
        for (text, millis) in [("0.5", 500), ("2", 2000), ("500m", 500), ("1.25", 1250), ("0.01", 10)] {
            assert_eq!(parse_cpu(text), Ok(millis), "{text}");
        }
        for bad in ["0", "9m", "0.0005", "1.0005", "half", "-1", "5000000", "1.5.2", "m", "1.2m"] {
            assert!(parse_cpu(bad).is_err(), "{bad}");
        }
        for (millis, text) in [(500, "0.5"), (2000, "2"), (1250, "1.25"), (10, "0.01"), (10_000, "10")] {
            assert_eq!(cpu_to_text(millis), text);
        }
    }

    #[test]
    fn json_takes_texts_and_numbers() {
        let json = r#"{"Memory":"512MiB","Swap":"0","Cpu":"0.5","Pids":256,"IoWeight":100}"#;
        assert_eq!(serde_json::from_str::<Limits>(json).unwrap(), full());
        assert_eq!(serde_json::to_string(&full()).unwrap(), json);
        let json = r#"{"Memory":"0.5GiB","Swap":0,"Cpu":0.5,"Pids":"256","IoWeight":"100"}"#;
        assert_eq!(serde_json::from_str::<Limits>(json).unwrap(), full());
        let json = r#"{"Memory":null,"Cpu":2}"#;
        let two_cores = Limits { cpu_millis: Some(2000), ..Limits::default() };
        assert_eq!(serde_json::from_str::<Limits>(json).unwrap(), two_cores);
        assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::default());
        assert_eq!(serde_json::to_string(&Limits::default()).unwrap(), "{}");
        let json = r#""memory=512MiB,swap=0,cpu=0.5,pids=256,io=100""#;
        assert_eq!(serde_json::from_str::<Limits>(json).unwrap(), full());
        for (json, part) in [
            (r#"{"Memory":512}"#, "memory 512 has no unit"),
            (r#"{"Pids":2.5}"#, "pids \"2.5\" is not understood"),
            (r#"{"Pids":-5}"#, "pids \"-5\" is not understood"),
            (r#"{"IoWeight":10001}"#, "io \"10001\" is not understood"),
            (r#"{"Cpu":[]}"#, "a limit, as"),
            (r#""memory=512""#, "memory 512 has no unit"),
            ("512", r#"expected limits, as {"Memory": "512MiB", "Cpu": 0.5} or "memory=512MiB,cpu=0.5""#),
        ] {
            let error = serde_json::from_str::<Limits>(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn defaults_fill_what_is_open() {
        let mine = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
        let both = mine.or(full());
        assert_eq!(both, Limits { memory_bytes: Some(1 << 30), ..full() });
        assert_eq!(Limits::default().or(full()), full());
    }
}
