//! The `simple` driver: a dyno is a subprocess in hsup's own working directory, with the release's environment.
//!
//! It needs no privileges, no slug and no stack image.

use std::env;
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::command::{c_string, find_program, plain_words, shell_line};
use crate::guardian::Guardian;
use crate::subprocess::{Place, Program, Subprocess};
use crate::{
    BoxFuture, BuildError, BuildSpec, Built, DynoDriver, DynoSpec, Network, Run, StartError, notify,
};

/// Where programs are looked for when neither the release nor hsup has a `PATH`.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a dyno gets of hsup's own environment where the release does not say otherwise: what names the user,
/// the terminal, the place and the language. Everything else of hsup's environment is hsup's.
const INHERITED: &[&str] = &["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];

/// The `simple` driver.
#[derive(Debug)]
pub struct Simple(Arc<WorkingDir>);

#[derive(Debug)]
struct WorkingDir {
    guardian: Arc<Guardian>,
    base: Vec<(String, String)>,
    dir: PathBuf,
    address: IpAddr,
}

impl Simple {
    /// A driver whose dynos run in hsup's working directory.
    pub fn new(guardian: Arc<Guardian>) -> Self {
        let inherited = |name: &str| INHERITED.contains(&name) || name.starts_with("LC_");
        let base = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self(Arc::new(WorkingDir {
            guardian,
            base: base.filter(|(name, _)| inherited(name)).collect(),
            dir: env::current_dir().unwrap_or_else(|_| "/".into()),
            address: host_address(),
        }))
    }
}

impl Place for WorkingDir {
    fn guardian(&self) -> &Guardian {
        &self.guardian
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn program(&self, spec: &DynoSpec, notify: Option<&str>) -> Result<Program<'_>, StartError> {
        let line = shell_line(&spec.command);
        let search = spec
            .env
            .iter()
            .chain(&self.base)
            .find_map(|(name, value)| (name == "PATH").then_some(value.as_str()))
            .unwrap_or(DEFAULT_PATH);
        let words = plain_words(&line).unwrap_or_else(|| vec![shell(), "-c", &line]);
        let path = find_program(words.first().copied().unwrap_or_default(), search, &self.dir)?;
        let args = words.iter().map(|word| c_string(*word)).collect::<Result<_, _>>()?;
        let env = environment(&self.base, spec, notify)?;
        Ok(Program { path, args, env, dir: None })
    }
}

/// bash evaluates command lines, as on Heroku; a host that has none has a POSIX shell.
pub(crate) fn shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

/// The environment of a dyno: the driver's defaults, what the release sets, and last what hsup itself says, the name of
/// the socket for its sd_notify among it.
pub(crate) fn environment(
    base: &[(String, String)],
    spec: &DynoSpec,
    notify: Option<&str>,
) -> Result<Vec<CString>, StartError> {
    let own = said_by_hsup(spec, notify);
    let overridden = |name: &str, by: &[(String, String)]| by.iter().any(|(other, _)| other == name);
    let base = base.iter().filter(|(name, _)| !overridden(name, &spec.env) && !overridden(name, &own));
    let release = spec.env.iter().filter(|(name, _)| !overridden(name, &own));
    base.chain(release).chain(&own).map(|(name, value)| c_string(format!("{name}={value}"))).collect()
}

/// What hsup itself says to a dyno, in its environment.
pub(crate) fn said_by_hsup(spec: &DynoSpec, notify: Option<&str>) -> Vec<(String, String)> {
    let mut own = vec![("PORT".to_owned(), spec.port.to_string()), ("DYNO".to_owned(), spec.name.clone())];
    own.extend(notify.map(|name| (notify::VARIABLE.to_owned(), name.to_owned())));
    own.extend_from_slice(&spec.own_env);
    own
}

/// The address at which this host is reached from others: of the first interface that is up and not the
/// loopback. A host without any is reached from itself alone.
pub(crate) fn host_address() -> IpAddr {
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let addresses = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let usable = interface.flags.contains(up) && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = interface.address.filter(|_| usable)?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let addresses: Vec<IpAddr> = addresses.collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first());
    first.copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

impl DynoDriver for Simple {
    fn name(&self) -> &'static str {
        "simple"
    }

    fn network(&self) -> Network {
        Network::Host
    }

    fn needs_slug(&self) -> bool {
        false
    }

    fn build<'a>(&'a self, _spec: &'a BuildSpec) -> BoxFuture<'a, Result<Built, BuildError>> {
        Box::pin(async { Ok(Built::default()) })
    }

    fn start<'a>(&'a self, spec: &'a DynoSpec) -> BoxFuture<'a, Result<Arc<dyn Run>, StartError>> {
        let place: Arc<dyn Place> = Arc::clone(&self.0) as _;
        Box::pin(async { Subprocess::start(place, spec) })
    }
}
