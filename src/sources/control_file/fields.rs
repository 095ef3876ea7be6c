//! The fields of a control file and their checks. A check runs while its value is read, so that its error
//! carries the line, the column and the field. No message may show a value of `Env` or `LogplexURL`.

use std::collections::BTreeSet;
use std::fmt;

use hsup_drivers::Limits;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::logplex_url::check_logplex_url;
use crate::model::{
    AppName, CheckText, Checks, Command, ConfigVars, Formation, FormationError, InvalidCheck, Process,
    ProcessType, Quantity, Release, ReleaseVersion, Rollout, Sha256Digest, SlugLocation, StackName, VarName,
    for_liveness,
};

/// The fields of a control file.
pub(super) const FIELDS: [&str; 8] =
    ["Version", "Name", "Env", "Slug", "SlugChecksum", "Stack", "Processes", "LogplexURL"];
/// The fields of an element of `Processes`.
pub(super) const PROCESS_FIELDS: [&str; 7] =
    ["Args", "Limits", "Liveness", "Quantity", "Readiness", "Rollout", "Type"];

/// A control file as read: a release but for the app's name, which it may leave out.
#[derive(Debug, Default)]
pub(in crate::sources) struct Document {
    version: ReleaseVersion,
    name: Option<AppName>,
    config: ConfigVars,
    slug: Option<SlugLocation>,
    slug_checksum: Option<Sha256Digest>,
    stack: Option<StackName>,
    formation: Formation,
    logplex_url: Option<LogplexUrl>,
}

/// Keeps the password out of `Debug` output.
struct LogplexUrl(String);

impl fmt::Debug for LogplexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogplexUrl(..)")
    }
}

impl Document {
    /// The app that the file names.
    pub(in crate::sources) fn name(&self) -> Option<&AppName> {
        self.name.as_ref()
    }

    /// The release; `fallback` is the app where the file names none.
    pub(in crate::sources) fn into_release(self, fallback: &AppName) -> Release {
        Release {
            app: self.name.unwrap_or_else(|| fallback.clone()),
            version: self.version,
            slug: self.slug,
            slug_checksum: self.slug_checksum,
            stack: self.stack,
            config: self.config,
            formation: self.formation,
            logplex_url: self.logplex_url.map(|url| url.0),
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"Version\": 1, \"Processes\": []}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut keys = Keys::default();
        let mut version = None;
        let mut document = Document::default();
        while let Some(key) = map.next_key::<String>()? {
            match keys.note(key)? {
                "Version" => version = map.next_value_seed(Number(|n| Ok(ReleaseVersion(n))))?,
                "Name" => document.name = map.next_value_seed(Text(unless_empty::<AppName>))?.flatten(),
                "Env" => document.config = map.next_value_seed(Env)?.unwrap_or_default(),
                "Slug" => document.slug = map.next_value_seed(Text(unless_empty::<SlugLocation>))?.flatten(),
                "SlugChecksum" => {
                    document.slug_checksum =
                        map.next_value_seed(Text(unless_empty::<Sha256Digest>))?.flatten();
                }
                "Stack" => document.stack = map.next_value_seed(Text(unless_empty::<StackName>))?.flatten(),
                "Processes" => document.formation = map.next_value_seed(Processes)?.unwrap_or_default(),
                "LogplexURL" => document.logplex_url = map.next_value_seed(Text(logplex_url))?.flatten(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        document.version = version.ok_or_else(|| keys.missing("Version", "\"Version\": 1"))?;
        keys.check_processes()?;
        Ok(document)
    }
}

fn unless_empty<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|error: T::Err| error.to_string()) }
}

fn logplex_url(url: &str) -> Result<Option<LogplexUrl>, String> {
    if url.is_empty() {
        return Ok(None);
    }
    check_logplex_url(url).map_err(|error| error.to_string())?;
    Ok(Some(LogplexUrl(url.to_owned())))
}

/// The keys of an object so far.
#[derive(Default)]
struct Keys {
    seen: BTreeSet<String>,
    last: String,
}

impl Keys {
    /// Notes a key, which may stand once.
    fn note<E: Error>(&mut self, key: String) -> Result<&str, E> {
        if !self.seen.insert(key.clone()) {
            return Err(E::custom(format_args!("the field {key:?} stands twice: keep one of them")));
        }
        self.last = key;
        Ok(&self.last)
    }

    /// `Processes` may be left out, as for one-off dynos; but not beside a field that looks like a slip for it: that
    /// would stop every dyno.
    fn check_processes<E: Error>(&self) -> Result<(), E> {
        let slip = self.seen.iter().find(|key| key.to_ascii_lowercase().starts_with("proc"));
        match slip.filter(|_| !self.seen.contains("Processes")) {
            None => Ok(()),
            Some(key) => Err(E::custom(format_args!(
                "{key:?} is no field, and \"Processes\" is missing: correct the name, or add \"Processes\": []"
            ))),
        }
    }

    /// The error of an object without a field that it needs.
    fn missing<E: Error>(&self, field: &str, example: &str) -> E {
        match self.seen.iter().find(|key| key.eq_ignore_ascii_case(field)) {
            Some(key) if key != field => {
                E::custom(format_args!("the field \"{field}\" is missing: write {key:?} as \"{field}\""))
            }
            Some(_) | None => {
                E::custom(format_args!("the field \"{field}\" is missing or null: add one such as {example}"))
            }
        }
    }
}

/// A string, or null; the function checks it.
struct Text<F>(F);

impl<'de, T, F: FnOnce(&str) -> Result<T, String>> DeserializeSeed<'de> for Text<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Option<T>, D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> Result<T, String>> Visitor<'de> for Text<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in double quotes")
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Option<T>, D::Error> {
        input.deserialize_str(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
        (self.0)(text).map(Some).map_err(E::custom)
    }
}

/// A whole number, or null; the function checks it.
struct Number<F>(F);

impl<'de, T, F: FnOnce(u64) -> Result<T, FormationError>> DeserializeSeed<'de> for Number<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Option<T>, D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de, T, F: FnOnce(u64) -> Result<T, FormationError>> Visitor<'de> for Number<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 0 or more, without quotes")
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Option<T>, D::Error> {
        input.deserialize_u64(self)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Option<T>, E> {
        (self.0)(number).map(Some).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Option<T>, E> {
        Err(E::custom("the number is negative: write a whole number of 0 or more"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Option<T>, E> {
        Err(E::custom("the number has a fraction or is too large: write a whole number of 0 or more"))
    }
}

/// Config vars, or null.
struct Env;

impl<'de> DeserializeSeed<'de> for Env {
    type Value = Option<ConfigVars>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Env {
    type Value = Option<ConfigVars>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of config vars such as {\"NAME\": \"value\"}")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = Keys::default();
        let mut vars = ConfigVars::default();
        while let Some(key) = map.next_key::<String>()? {
            let name = keys.note(key)?.to_owned();
            map.next_value_seed(Text(|value: &str| {
                let name: VarName = name.parse().map_err(|error| format!("{error}"))?;
                vars.set(name, value.to_owned()).map_err(|error| error.to_string())
            }))?
            .ok_or_else(|| {
                A::Error::custom(format_args!(
                    "config var {name:?} is null: remove it, or give it a value (\"\" is one)"
                ))
            })?;
        }
        Ok(Some(vars))
    }
}

/// The formation, or null.
struct Processes;

impl<'de> DeserializeSeed<'de> for Processes {
    type Value = Option<Formation>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Processes {
    type Value = Option<Formation>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an array of process types such as [{\"Type\": \"web\", \"Args\": [\"./web\"], \"Quantity\": 1}]",
        )
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut formation = Formation::default();
        while let Some(process) = seq.next_element_seed(OneProcess(&formation))? {
            formation.add(process).map_err(A::Error::custom)?;
        }
        Ok(Some(formation))
    }
}

/// One process type, given those before it.
struct OneProcess<'a>(&'a Formation);

impl OneProcess<'_> {
    fn check_type(&self, name: &str) -> Result<ProcessType, String> {
        let process_type: ProcessType = name.parse().map_err(|error| format!("{error}"))?;
        if process_type == ProcessType::run() {
            return Err(FormationError::Reserved.to_string());
        }
        if self.0.find(&process_type).is_some() {
            return Err(FormationError::Duplicate(process_type).to_string());
        }
        Ok(process_type)
    }
}

impl<'de> DeserializeSeed<'de> for OneProcess<'_> {
    type Value = Process;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Process, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneProcess<'_> {
    type Value = Process;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a process type such as {\"Type\": \"web\", \"Args\": [\"./web\"], \"Quantity\": 1}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Process, A::Error> {
        let mut keys = Keys::default();
        let (mut process_type, mut command, mut quantity, mut limits) = (None, None, None, None);
        let (mut checks, mut rollout) = (Checks::default(), None);
        while let Some(key) = map.next_key::<String>()? {
            match keys.note(key)? {
                "Type" => process_type = map.next_value_seed(Text(|name: &str| self.check_type(name)))?,
                "Args" => command = map.next_value_seed(Args)?,
                "Limits" => limits = map.next_value::<Option<Limits>>()?,
                "Quantity" => quantity = map.next_value_seed(Number(quantity_of))?,
                "Readiness" => checks.readiness = map.next_value_seed(Text(readiness))?,
                "Liveness" => checks.liveness = map.next_value_seed(Text(liveness))?,
                "Rollout" => rollout = map.next_value_seed(Text(unless_empty::<Rollout>))?.flatten(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Process {
            process_type: process_type.ok_or_else(|| keys.missing("Type", "\"Type\": \"web\""))?,
            command: command.ok_or_else(|| keys.missing("Args", "\"Args\": [\"./web\"]"))?,
            quantity: quantity.unwrap_or(Quantity::ONE),
            limits: limits.unwrap_or_default(),
            checks,
            rollout,
        })
    }
}

fn readiness(text: &str) -> Result<CheckText, String> {
    text.parse().map_err(|error: InvalidCheck| error.to_string())
}

fn liveness(text: &str) -> Result<CheckText, String> {
    readiness(text).and_then(|check| for_liveness(check).map_err(|error| error.to_string()))
}

fn quantity_of(number: u64) -> Result<Quantity, FormationError> {
    u32::try_from(number).unwrap_or(u32::MAX).try_into()
}

/// A command, or null.
struct Args;

impl<'de> DeserializeSeed<'de> for Args {
    type Value = Option<Command>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Args {
    type Value = Option<Command>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings such as [\"./web\", \"--verbose\"]")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut args = Vec::new();
        while let Some(arg) = seq.next_element::<String>()? {
            args.push(arg);
        }
        Command::try_from(args).map(Some).map_err(A::Error::custom)
    }
}
