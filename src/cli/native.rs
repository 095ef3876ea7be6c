//! The settings of the native driver: two flags, and the variables by which hosts have always set up the networks
//! and the users of dynos.

use std::ops::RangeInclusive;
use std::str::FromStr;

use hsup_drivers::native::claims::{UID_MAX, UID_MIN};
use hsup_drivers::native::network::{Allow, Block, ExtraInterface, Routes};

use super::settings::{Problem, Reader, Setting};

const ALLOW: Setting = Setting { flag: "--allow", variable: "HSUP_ALLOW" };

/// How the variables begin: as they always have, and as hsup's own settings do, which beats it.
const PREFIXES: [&str; 2] = ["HSUP_NATIVE_", "LIBCONTAINER_"];

/// How native dynos are connected, and as whom they run.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeConfig {
    /// What their /30 networks are taken from.
    pub block: Block,
    /// What their users are taken from.
    pub uids: RangeInclusive<u32>,
    /// An interface of the host on which each has a further one.
    pub extra_interface: Option<ExtraInterface>,
    /// Further routes.
    pub extra_routes: Routes,
    /// What they may reach besides the world outside.
    pub allow: Allow,
    /// Whether a flag says so, which is meant for this one command and not for whatever driver a host has.
    pub allow_by_flag: bool,
}

/// Reads the settings.
pub(super) fn read(reader: &mut Reader<'_>, allow: Vec<String>) -> NativeConfig {
    let block = variable(reader, ["HSUP_NATIVE_DYNO_SUBNET", "LIBCONTAINER_DYNO_SUBNET"]);
    let least = variable(reader, ["HSUP_NATIVE_DYNO_UID_MIN", "LIBCONTAINER_DYNO_UID_MIN"]);
    let most = variable(reader, ["HSUP_NATIVE_DYNO_UID_MAX", "LIBCONTAINER_DYNO_UID_MAX"]);
    let extra_interface =
        variable(reader, ["HSUP_NATIVE_DYNO_EXTRA_INTERFACE", "LIBCONTAINER_DYNO_EXTRA_INTERFACE"]);
    let extra_routes = variable(reader, ["HSUP_NATIVE_DYNO_EXTRA_ROUTES", "LIBCONTAINER_DYNO_EXTRA_ROUTES"]);
    let extra_routes: Routes = extra_routes.unwrap_or_default();
    if extra_routes.need_extra() && extra_interface.is_none() {
        let what = "a route by eth1 needs an extra interface: set LIBCONTAINER_DYNO_EXTRA_INTERFACE";
        reader.problems.push(Problem::usage("LIBCONTAINER_DYNO_EXTRA_ROUTES", what));
    }
    let allow_by_flag = !allow.is_empty();
    NativeConfig {
        allow_by_flag,
        block: block.unwrap_or(Block::DEFAULT),
        uids: uids(reader, least, most),
        extra_interface,
        extra_routes,
        allow: read_allow(reader, allow),
    }
}

/// The value of the first of the variables that is set.
fn variable<T: FromStr<Err: std::fmt::Display>>(
    reader: &mut Reader<'_>,
    names: [&'static str; PREFIXES.len()],
) -> Option<T> {
    for name in names {
        if let Some(text) = reader.text_variable(name) {
            return reader.keep(name, text.parse());
        }
    }
    None
}

/// The users that dynos may be: never root, nor nobody in particular.
fn uids(reader: &mut Reader<'_>, least: Option<u32>, most: Option<u32>) -> RangeInclusive<u32> {
    /// The user that stands for those who cannot be named.
    const OVERFLOW: u32 = 65534;
    let uids = least.unwrap_or(UID_MIN)..=most.unwrap_or(UID_MAX.max(least.unwrap_or(0)));
    if uids.is_empty() || uids.contains(&0) || uids.contains(&OVERFLOW) {
        let what = format!(
            "no dyno can have a user from {} to {}: write two numbers from 1 on, the first not above the second, and \
             not {OVERFLOW} between them",
            uids.start(),
            uids.end()
        );
        reader.problems.push(Problem::usage("LIBCONTAINER_DYNO_UID_MIN and LIBCONTAINER_DYNO_UID_MAX", what));
    }
    uids
}

fn read_allow(reader: &mut Reader<'_>, flags: Vec<String>) -> Allow {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(ALLOW.variable).unwrap_or_default();
        let given: Vec<String> = variable.split(',').map(str::trim).map(str::to_owned).collect();
        (given, ALLOW.variable)
    } else {
        (flags, ALLOW.flag)
    };
    let mut allow = Allow::default();
    for what in given.iter().filter(|what| !what.is_empty()) {
        match what.as_str() {
            "dynos" => allow.dynos = true,
            "metadata" => allow.metadata = true,
            other => {
                let what = format!("{other:?} is nothing to be allowed: write dynos or metadata");
                reader.problems.push(Problem::usage(name, what));
            }
        }
    }
    allow
}
