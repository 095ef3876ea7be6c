//! Limits in JSON: an object or the text of the list, and in either a number may be a text.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    LimitError, Limits, bytes_to_text, cpu_to_text, parse_cpu, parse_io_weight, parse_memory, parse_pids,
    parse_swap,
};

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // the derived one
        Self::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ListOrObject)
    }
}

/// Limits in either form.
struct ListOrObject;

impl<'de> Visitor<'de> for ListOrObject {
    type Value = Limits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits, as {\"Memory\": \"512MiB\", \"Cpu\": 0.5} or \"memory=512MiB,cpu=0.5\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Limits, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limits, A::Error> {
        // the derived one
        Limits::deserialize(MapAccessDeserializer::new(map))
    }
}

pub(super) fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Value(parse_memory))
}

pub(super) fn swap<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Value(parse_swap))
}

pub(super) fn cpu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    from.deserialize_any(Value(parse_cpu))
}

pub(super) fn pids<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    from.deserialize_any(Value(parse_pids))
}

pub(super) fn io_weight<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    from.deserialize_any(Value(parse_io_weight))
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn bytes_text<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    bytes.map(bytes_to_text).serialize(to)
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn cpu_text<S: Serializer>(millis: &Option<u32>, to: S) -> Result<S::Ok, S::Error> {
    millis.map(cpu_to_text).serialize(to)
}

/// One value, read by its parser whether it is a text or a number; null is no limit.
struct Value<T>(fn(&str) -> Result<T, LimitError>);

impl<T> Visitor<'_> for Value<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a limit, as \"512MiB\", 0.5 or 256")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        (self.0)(text).map(Some).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}
