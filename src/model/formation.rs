//! The formation: which process types an app has, with which command, and how many dynos of each.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hsup_drivers::Limits;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::checks::Checks;
use super::names::{InvalidName, ProcessType};
use super::rollout::Rollout;

/// The most dynos of one type. A number above this is a slip of the finger, not a formation.
pub const MAX_QUANTITY: u32 = 10_000;

/// How many dynos of a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Quantity(u32);

impl Quantity {
    /// One dyno.
    pub const ONE: Self = Self(1);

    /// The number of dynos.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Quantity {
    type Error = FormationError;

    fn try_from(number: u32) -> Result<Self, FormationError> {
        if number > MAX_QUANTITY { Err(FormationError::Quantity) } else { Ok(Self(number)) }
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        u32::deserialize(input)?.try_into().map_err(de::Error::custom)
    }
}

/// The command of a process type, as the release gives it. One element is a shell command line; several are
/// words that are joined by spaces before bash evaluates them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Command(Vec<String>);

impl Command {
    /// The elements: never empty, and none holds a NUL.
    pub fn args(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Command {
    type Error = FormationError;

    fn try_from(args: Vec<String>) -> Result<Self, FormationError> {
        match args.as_slice() {
            [] => Err(FormationError::NoCommand),
            [line] if line.trim().is_empty() => Err(FormationError::NoCommand),
            args if args.iter().any(|arg| arg.contains('\0')) => Err(FormationError::NulInCommand),
            _ => Ok(Self(args)),
        }
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Vec::<String>::deserialize(input)?.try_into().map_err(de::Error::custom)
    }
}

/// One process type of a formation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The type.
    pub process_type: ProcessType,
    /// What its dynos run.
    pub command: Command,
    /// How many dynos the release asks for.
    pub quantity: Quantity,
    /// What each of its dynos may use of the host.
    pub limits: Limits,
    /// How hsup tells that its dynos are ready and well.
    pub checks: Checks,
    /// How its dynos are replaced.
    pub rollout: Option<Rollout>,
}

impl Process {
    /// A process type of which nothing is said but what it runs.
    pub fn new(process_type: ProcessType, command: Command, quantity: Quantity) -> Self {
        Self {
            process_type,
            command,
            quantity,
            limits: Limits::default(),
            checks: Checks::default(),
            rollout: None,
        }
    }
}

/// Why a formation cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormationError {
    /// A process type stands twice.
    #[error("process type {0} is defined twice: keep one of them, and raise its quantity for more dynos")]
    Duplicate(ProcessType),
    /// `run` is kept for one-off dynos.
    #[error("process type \"run\" is kept for one-off dynos: rename it")]
    Reserved,
    /// A process type without a command.
    #[error("the command is empty: give what the dyno is to run")]
    NoCommand,
    /// A command holds a NUL byte.
    #[error("the command holds a NUL byte, which no command line can carry: remove it")]
    NulInCommand,
    /// Too many dynos.
    #[error("the quantity is above {MAX_QUANTITY}, the most dynos of one type")]
    Quantity,
}

/// The process types of an app in the order of the release; no type stands twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formation(Vec<Process>);

impl Formation {
    /// Adds a process type.
    ///
    /// # Errors
    /// If the type is there already or is reserved.
    pub fn add(&mut self, process: Process) -> Result<(), FormationError> {
        if process.process_type == ProcessType::run() {
            return Err(FormationError::Reserved);
        }
        if self.find(&process.process_type).is_some() {
            return Err(FormationError::Duplicate(process.process_type));
        }
        self.0.push(process);
        Ok(())
    }

    /// The same process types in these quantities.
    #[must_use]
    pub fn with_quantities(&self, of: impl Fn(&Process) -> Quantity) -> Self {
        Self(self.iter().map(|process| Process { quantity: of(process), ..process.clone() }).collect())
    }

    /// The process type of that name.
    pub fn find(&self, process_type: &ProcessType) -> Option<&Process> {
        self.0.iter().find(|process| process.process_type == *process_type)
    }

    /// The process types in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Process> {
        self.0.iter()
    }
}

/// One `type=n` of the command line; `type` alone means one dyno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantityOverride {
    /// The type.
    pub process_type: ProcessType,
    /// The number of its dynos.
    pub quantity: Quantity,
}

/// Why a `type=n` argument is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// The part before `=`.
    #[error(transparent)]
    Type(#[from] InvalidName),
    /// The part after `=`.
    #[error("{0:?} is not a quantity: write TYPE=N with N from 0 to {MAX_QUANTITY}, for instance web=2")]
    Number(String),
}

impl FromStr for QuantityOverride {
    type Err = InvalidQuantity;

    fn from_str(given: &str) -> Result<Self, InvalidQuantity> {
        let (process_type, number) = given.split_once('=').unwrap_or((given, "1"));
        let invalid = || InvalidQuantity::Number(given.to_owned());
        let number: u32 = number.parse().map_err(|_| invalid())?;
        Ok(Self {
            process_type: process_type.parse()?,
            quantity: number.try_into().map_err(|_: FormationError| invalid())?,
        })
    }
}

/// One change of scale: `web=3`, `worker+1`, `worker-2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleChange {
    /// The type.
    pub process_type: ProcessType,
    amount: u32,
    sign: Option<char>,
}

impl ScaleChange {
    /// The quantity that it makes of this one; never below 0 nor above the most that there can be.
    pub fn of(&self, before: Quantity) -> Quantity {
        let after = match self.sign {
            None => self.amount,
            Some('-') => before.0.saturating_sub(self.amount),
            Some(_) => before.0.saturating_add(self.amount),
        };
        Quantity(after.min(MAX_QUANTITY))
    }
}

impl FromStr for ScaleChange {
    type Err = InvalidQuantity;

    fn from_str(given: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity::Number(given.to_owned());
        let (name, sign, amount) = match given.split_once('=') {
            Some((name, amount)) => (name, None, amount),
            None => {
                // a type may hold a minus itself: the last sign counts
                let at = given.rfind(['+', '-']).ok_or_else(invalid)?;
                (&given[..at], given[at..].chars().next(), &given[at + 1..])
            }
        };
        let amount = amount.parse().ok().filter(|amount| *amount <= MAX_QUANTITY).ok_or_else(invalid)?;
        Ok(Self { process_type: name.parse()?, amount, sign })
    }
}

/// How many dynos of each type run on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Quantities {
    /// As many as the release says.
    #[default]
    OfRelease,
    /// One of each type of which the release has any: its numbers describe an app on many hosts.
    OneOfEach,
    /// As the operator said with `type=n`; a type that is not named has none.
    Explicit(BTreeMap<ProcessType, Quantity>),
}

impl Quantities {
    /// How many dynos of this process type to run.
    pub fn of(&self, process: &Process) -> Quantity {
        match self {
            Self::OfRelease => process.quantity,
            Self::OneOfEach => process.quantity.min(Quantity::ONE),
            Self::Explicit(map) => map.get(&process.process_type).copied().unwrap_or_default(),
        }
    }
}

impl FromIterator<QuantityOverride> for Quantities {
    /// No overrides at all mean the quantities of the release; of two for one type the last one counts.
    fn from_iter<I: IntoIterator<Item = QuantityOverride>>(overrides: I) -> Self {
        let map: BTreeMap<_, _> = overrides.into_iter().map(|o| (o.process_type, o.quantity)).collect();
        if map.is_empty() { Self::OfRelease } else { Self::Explicit(map) }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, quantity: u32) -> Process {
        let command = vec!["true".to_owned()].try_into().unwrap();
        Process::new(name.parse().unwrap(), command, quantity.try_into().unwrap())
    }

    #[test]
    fn a_type_stands_once_and_run_never() {
        let mut formation = Formation::default();
        formation.add(process("web", 1)).unwrap();
        assert!(matches!(formation.add(process("web", 2)), Err(FormationError::Duplicate(_))));
        assert_eq!(formation.add(process("run", 1)), Err(FormationError::Reserved));
    }

    #[test]
    fn explicit_quantities_leave_unnamed_types_out() {
        let explicit: Quantities =
            ["web=2", "clock"].iter().map(|o| o.parse::<QuantityOverride>().unwrap()).collect();
        assert_eq!(explicit.of(&process("web", 7)).get(), 2);
        assert_eq!(explicit.of(&process("clock", 7)).get(), 1);
        assert_eq!(explicit.of(&process("worker", 7)).get(), 0);
        assert_eq!(Quantities::OneOfEach.of(&process("worker", 7)).get(), 1);
        assert_eq!(Quantities::OneOfEach.of(&process("worker", 0)).get(), 0);
        let none: Quantities = std::iter::empty::<QuantityOverride>().collect();
        assert_eq!(none.of(&process("worker", 7)).get(), 7);
    }

    #[test]
    fn a_scale_changes_by_an_amount_or_to_one() {
        let after = |text: &str, before: u32| {
            let change: ScaleChange = text.parse().unwrap();
            (change.process_type.to_string(), change.of(before.try_into().unwrap()).get())
        };
        assert_eq!(after("web=3", 1), ("web".to_owned(), 3));
        assert_eq!(after("web+2", 1), ("web".to_owned(), 3));
        assert_eq!(after("my-worker-2", 1), ("my-worker".to_owned(), 0));
        assert_eq!(after("web+10000", 10_000), ("web".to_owned(), MAX_QUANTITY));
        for bad in ["web", "web=", "web=x", "web+", "=3", "web=10001", "we b=1"] {
            assert!(bad.parse::<ScaleChange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn quantities_are_bounded_numbers() {
        for bad in ["web=", "web=x", "web=-1", "web=10001", "=1", "we/b=1"] {
            assert!(bad.parse::<QuantityOverride>().is_err(), "{bad}");
        }
    }
}
