//! How a run is put together from the rooms beside this file: what it holds is claimed, written down and made, init
//! is cloned, and the network made while init sets up the rest of the dyno.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::NativeSettings;
use super::cgroup::{Cgroup, Hierarchies};
use super::claims::{Claims, Identity};
use super::copy::{copy_owned, has_one_owner};
use super::driver::beside;
use super::etc::{self, Etc};
use super::first_process::{Started, Unstarted, begin};
use super::holdings::{Holdings, Waiting};
use super::in_root;
use super::ledger::{Init, Ledger, Record};
use super::network::{Fence, HostLink, Links, Resolver, nft};
use super::protocol::{AppDir, Failure, ProcessRequest, Request, Scratch, StartRequest, StdioKind};
use super::run::StartedDyno;
use super::uplink::Uplink;
use super::wires::{Wires, wires};
use super::zygotes::{DynoNetns, Zygote};
use crate::command::shell_line;
use crate::guardian::Guardian;
use crate::simple::{DEFAULT_PATH, environment};
use crate::{DynoSpec, StartError, netns, notify, process};

/// The most processes of a dyno to which no limit is given: far more than an app has, and no danger to the host.
const MAX_PROCESSES: u64 = 4096;

/// The size of each of `/tmp`, `/var/tmp` and `/dev/shm`, which are in memory: what an app puts there for a while
/// fits. What is in them is memory of the dyno, and counts towards the limit of that; one without a limit can have so
/// much of the host's three times.
const TMP_BYTES: u64 = 512 << 20;

/// What runs are started with.
pub(super) struct Starter {
    pub(super) guardian: Arc<Guardian>,
    pub(super) zygote: Arc<Zygote>,
    pub(super) settings: NativeSettings,
    pub(super) scratch: Scratch,
    pub(super) claims: Claims,
    pub(super) ledger: Ledger,
    pub(super) waiting: Arc<Waiting>,
    pub(super) cgroups: Hierarchies,
    pub(super) uplink: Arc<Uplink>,
    /// Whether files of `/app` have to be copied for each dyno, since they cannot be shown as its own.
    pub(super) copies: AtomicBool,
    /// Whether they have several owners, of which one only could be shown as the dyno; not known until it matters.
    pub(super) mixed: Mutex<Option<bool>>,
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.uplink.leave();
        self.cgroups.tidy();
    }
}

/// What the network of a dyno is to be.
struct DynoNetwork {
    link: HostLink,
    resolver: Resolver,
}

/// An init that has been cloned and has started the main process.
struct Cloned {
    init: u32,
    pidfd: OwnedFd,
    main: Option<u32>,
    /// Where the dyno speaks by sd_notify, if it is to.
    notify: Option<OwnedFd>,
}

/// A start that failed.
struct Failed {
    error: StartError,
    /// Whether a copy of the app's files would help.
    copy: bool,
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        Self { error, copy: false }
    }
}

/// What connects a dyno with the host.
struct Connection {
    /// The way to the host's links.
    host: Links,
    netns: DynoNetns,
    /// Whether there is the link between the two.
    linked: bool,
}

/// Links a dyno to the host, if that is done at once: what has to be waited for, and what cannot be done at all, is left
/// to [`Starter::connect`]. Others wait for the zygote meanwhile.
fn begin_to_connect(link: &HostLink, netns: DynoNetns) -> Result<Connection, StartError> {
    let host = Links::open().map_err(step("connect the dyno"))?;
    let linked = host.connect_at_once(link, netns.namespace.as_fd()).is_ok();
    Ok(Connection { host, netns, linked })
}

/// An error of a step, as one of a start.
pub(super) fn step<E: std::error::Error>(what: &str) -> impl FnOnce(E) -> StartError {
    let what = what.to_owned();
    move |error| StartError::SetUp { what, source: io::Error::other(crate::explain(&error)) }
}

impl Starter {
    /// Starts a run. A copy of the app's files may take long, and is made where it disturbs nobody.
    pub(super) async fn start(self: Arc<Self>, spec: DynoSpec) -> Result<StartedDyno, StartError> {
        let in_place = self.settings.one_off && !self.copies(&spec);
        let (starter, again) = (Arc::clone(&self), spec.clone());
        let first = beside(in_place, move || starter.try_start(&spec)).await;
        match first {
            // Of several at once, one says it.
            Err(Failed { error, copy: true }) => {
                if !self.copies.swap(true, Ordering::Relaxed) {
                    let why = crate::explain(&error);
                    tracing::warn!("{why}; the files of the app are copied for each dyno from now on");
                }
                let second = beside(false, move || self.try_start(&again)).await;
                second.map_err(|failed| failed.error)
            }
            other => other.map_err(|failed| failed.error),
        }
    }

    /// Starts a run; where it fails, tells whether a copy of the app's files would help.
    fn try_start(&self, spec: &DynoSpec) -> Result<StartedDyno, Failed> {
        let Wires { control, output, stdio, init: fds } = wires(&spec.stdio)?;
        let (mut holdings, network) = self.hold(spec)?;
        let cloned = self.clone_and_connect(spec, &mut holdings, &network, stdio, fds, &control);
        match cloned {
            Ok(Cloned { init, pidfd, main, notify }) => {
                self.tidy_layers(spec, &holdings);
                let init = Started { dyno: spec.name.clone(), pid: init, pidfd, control };
                let address = network.link.subnet.dyno();
                Ok(StartedDyno { init, main, address, output, notify, holdings })
            }
            Err(failed) => {
                self.waiting.give_back(holdings);
                Err(failed)
            }
        }
    }

    /// Claims and makes what a run holds, each thing written down before it is made.
    fn hold(&self, spec: &DynoSpec) -> Result<(Holdings, DynoNetwork), StartError> {
        let settings = &self.settings;
        let identity = self.claims.claim_identity(settings.uids.clone(), &settings.block);
        let identity = identity.map_err(step("claim a user and a network"))?;
        let Identity { uid, subnet } = identity.identity();
        let resolver = Uplink::resolver(subnet.gateway());
        let network = DynoNetwork { link: HostLink::new(subnet, settings.allow, resolver.stub), resolver };
        let run = self.ledger.new_run(&spec.name);
        let dir = settings.state_dir.join(super::doctor::DYNOS).join(run.as_str());
        let cgroups = self.cgroups.plan(run.as_str(), &spec.limits);
        let cgroups = cgroups.map_err(step("plan the cgroup"))?;
        let entry = self.ledger.enter(Record {
            owner: run.owner().clone(),
            dyno: spec.name.clone(),
            uid,
            subnet: subnet.network().to_bits(),
            link: Some(network.link.name.clone()),
            cgroups,
            dirs: vec![dir.clone()],
            init: None,
            release: None,
            run: run.clone(),
        });
        let entry = entry.map_err(step("write down the run"))?;
        let mut holdings = Holdings {
            dyno: spec.name.clone(),
            state_dir: settings.state_dir.clone(),
            entry,
            identity,
            cgroup: None,
            dirs: vec![dir.clone()],
            mounts: None,
        };
        let cgroup =
            self.make_dirs(spec, uid, &dir).map_err(step("make the places of a dyno")).and_then(|()| {
                Cgroup::create(&self.cgroups, run.as_str(), &spec.limits).map_err(step("make the cgroup"))
            });
        match cgroup {
            Ok(cgroup) => {
                holdings.cgroup = Some(Arc::new(cgroup));
                Ok((holdings, network))
            }
            Err(error) => {
                self.waiting.give_back(holdings);
                Err(error)
            }
        }
    }

    fn make_dirs(&self, spec: &DynoSpec, uid: u32, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        match self.shared(spec) {
            Some(shared) if self.copies(spec) => copy_owned(shared, &dir.join("app"), uid)?,
            Some(_) => {
                fs::create_dir(dir.join("upper"))?;
                fs::create_dir(dir.join("work"))?;
            }
            None => {}
        }
        Ok(())
    }

    /// Has the next start look again whose the files are that are the app where there is no slug.
    pub(super) fn look_anew(&self) {
        *self.mixed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the folder that is the app where there is no slug is several users'. A slug is one's: hsup has unpacked
    /// it.
    fn is_mixed(&self, spec: &DynoSpec) -> bool {
        let (None, Some(dir)) = (&spec.built.app_dir, &self.settings.app_dir) else { return false };
        let mut mixed = self.mixed.lock().unwrap_or_else(PoisonError::into_inner);
        *mixed.get_or_insert_with(|| {
            let mixed = !has_one_owner(dir);
            if mixed {
                let dir = dir.display();
                tracing::warn!(
                    "files in {dir} have several owners, so that they are copied for each dyno, as its own"
                );
            }
            mixed
        })
    }

    fn copies(&self, spec: &DynoSpec) -> bool {
        self.copies.load(Ordering::Relaxed) || self.is_mixed(spec)
    }

    /// Removes the marks that the kernel has left on disk for whoever would mount a volatile layer again, which nobody
    /// does. It is time that the end of the dyno need not take.
    fn tidy_layers(&self, spec: &DynoSpec, holdings: &Holdings) {
        let layered = self.shared(spec).is_some() && !self.copies(spec);
        if let Some(dir) = holdings.dirs.first().filter(|_| layered) {
            let marks = dir.join("work/work/incompat");
            // What stays goes with the rest.
            let _removed = fs::remove_file(marks.join("volatile/dirty"))
                .and_then(|()| fs::remove_dir(marks.join("volatile")))
                .and_then(|()| fs::remove_dir(marks));
        }
    }

    /// The folder whose files are at `/app`.
    fn shared<'a>(&'a self, spec: &'a DynoSpec) -> Option<&'a Path> {
        spec.built.app_dir.as_deref().or(self.settings.app_dir.as_deref())
    }

    /// Has init cloned, makes the network meanwhile and while it sets up the rest of the dyno, and waits for its word.
    fn clone_and_connect(
        &self,
        spec: &DynoSpec,
        holdings: &mut Holdings,
        network: &DynoNetwork,
        stdio: StdioKind,
        mut fds: Vec<OwnedFd>,
        control: &OwnedFd,
    ) -> Result<Cloned, Failed> {
        let request = Request::Init(Box::new(self.request(spec, holdings, network, stdio)?));
        if let Some(cgroup) = holdings.cgroup.as_ref().and_then(|cgroup| cgroup.unified_dir()) {
            fds.push(cgroup.try_clone_to_owned().map_err(step("open the cgroup"))?);
        }
        let link = &network.link;
        let cloned = self.zygote.clone_init(&request, &fds, |netns| begin_to_connect(link, netns));
        let (init, pidfd, begun) = cloned.map_err(|unstarted| self.judge(spec, unstarted))?;
        if self.settings.one_off {
            // Beside the start it ends for nothing; at the end of hsup that would be waited for.
            self.zygote.dismiss();
        }
        // Init holds them now, and the end of the one is to mean the end of the other.
        drop(fds);
        let ready = begun.and_then(|connection| {
            self.adopt(holdings, init)?;
            let notify = self.connect(spec, link, &connection)?;
            // Last, beside what init does next: the kernel may still be busy with what the hsup before has removed of it.
            self.uplink.install(network.resolver.stub).map_err(step("set up the packet filter"))?;
            Ok(notify)
        });
        match begin(pidfd.as_fd(), control.as_fd(), ready) {
            // By the time that this is looked for it may be gone.
            Ok((main, notify)) => {
                Ok(Cloned { init, pidfd, main: process::child_by_inner_pid(init, main), notify })
            }
            Err(unstarted) => Err(self.judge(spec, unstarted)),
        }
    }

    /// Makes both ends of a dyno's network. Gives where the dyno speaks by sd_notify, if it is to.
    fn connect(
        &self,
        spec: &DynoSpec,
        link: &HostLink,
        connection: &Connection,
    ) -> Result<Option<OwnedFd>, StartError> {
        let Connection { host, netns, linked } = connection;
        let namespace = netns.namespace.as_fd();
        if !linked {
            host.connect(link, namespace).map_err(step("connect the dyno"))?;
        }
        let NativeSettings { extra_interface, extra_routes, allow, block, .. } = &self.settings;
        let doing = "set up the network inside";
        if let Some(extra) = extra_interface {
            let kind = host.connect_extra(&extra.host, namespace);
            self.uplink.note_extra(kind.map_err(step("connect the extra interface"))?);
        }
        netns.links.configure(&link.subnet, extra_routes, extra_interface.as_ref()).map_err(step(doing))?;
        if let Some(extra) = extra_interface {
            let fence = Fence::new(*allow, block, extra, extra_routes);
            let installed = netns::within(namespace, || Ok(nft::install_fence(&fence)));
            installed.map_err(step(doing))?.map_err(step(doing))?;
        }
        let notify = spec.notify.then(|| notify::inside(namespace)).transpose();
        let notify = notify.map_err(step("make the socket for the dyno's sd_notify"))?;
        // Both ends are ready for the first packet then.
        host.settle(&link.name).map_err(step(doing))?;
        Ok(notify)
    }

    /// Writes down an init that has been cloned, and puts it where its dyno is limited.
    fn adopt(&self, holdings: &mut Holdings, init: u32) -> Result<(), StartError> {
        if let Some(of) = Init::of(init) {
            holdings.entry.update(|record| record.init = Some(of)).map_err(step("write down init"))?;
        }
        if self.settings.one_off {
            // Only for the time that it saves.
            holdings.mounts = File::open(format!("/proc/{init}/ns/mnt")).ok().map(OwnedFd::from);
        }
        holdings.cgroup.as_ref().map_or(Ok(()), |cgroup| attach(cgroup, init))
    }

    fn judge(&self, spec: &DynoSpec, unstarted: Unstarted) -> Failed {
        let not_shared = matches!(unstarted, Unstarted::Inside(Failure::NotShared { .. }));
        Failed { error: unstarted.into(), copy: not_shared && self.shared(spec).is_some() }
    }

    fn request(
        &self,
        spec: &DynoSpec,
        holdings: &Holdings,
        network: &DynoNetwork,
        stdio: StdioKind,
    ) -> Result<StartRequest, StartError> {
        let settings = &self.settings;
        let root = spec.built.root.clone().ok_or(io::Error::from(io::ErrorKind::NotFound));
        let root = root.map_err(step("find the root of the dyno: the release has not been built"))?;
        let uid = holdings.identity.identity().uid;
        let dir = holdings.dirs.first().cloned().unwrap_or_default();
        let app = match self.shared(spec) {
            None => AppDir::Empty,
            Some(_) if self.copies(spec) => AppDir::Own(dir.join("app")),
            Some(shared) => AppDir::Layers {
                owner: fs::metadata(shared).map_or((0, 0), |found| (found.uid(), found.gid())),
                lower: shared.to_owned(),
                upper: dir.join("upper"),
                work: dir.join("work"),
            },
        };
        let hostname = etc::hostname(&spec.name);
        let read = |name: &str| in_root::read(&root, &Path::new("etc").join(name)).unwrap_or_default();
        let etc = Etc {
            passwd: &read("passwd"),
            group: &read("group"),
            uid,
            hostname: &hostname,
            address: network.link.subnet.dyno(),
            resolver: &network.resolver.text,
        };
        Ok(StartRequest {
            etc: etc.files(),
            hostname,
            main: self.process(spec, uid, holdings.cgroup.as_deref(), stdio)?,
            root,
            scratch: self.scratch.clone(),
            app,
            binds: settings.binds.clone(),
            tmp_bytes: TMP_BYTES,
        })
    }

    /// What a process of the dyno is: its main one, or a command inside it.
    pub(super) fn process(
        &self,
        spec: &DynoSpec,
        uid: u32,
        cgroup: Option<&Cgroup>,
        stdio: StdioKind,
    ) -> Result<ProcessRequest, StartError> {
        let base = [
            ("PATH", DEFAULT_PATH),
            ("HOME", "/app"),
            ("PWD", "/app"),
            ("USER", etc::USER),
            ("LOGNAME", etc::USER),
        ];
        let mut base: Vec<_> = base.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        if let (StdioKind::Terminal, Ok(term)) = (stdio, std::env::var("TERM")) {
            base.push(("TERM".to_owned(), term));
        }
        let env = environment(&base, spec, spec.notify.then_some(notify::INSIDE))?;
        Ok(ProcessRequest {
            uid,
            line: shell_line(&spec.command),
            env: env.into_iter().map(|var| var.to_string_lossy().into_owned()).collect(),
            stdio,
            max_processes: spec.limits.pids.map_or(MAX_PROCESSES, u64::from),
            open_files: self.guardian.open_files(),
            into_cgroup: cgroup.is_some_and(|cgroup| cgroup.unified_dir().is_some()),
        })
    }
}

/// Puts a process that has been cloned into a cgroup.
pub(super) fn attach(cgroup: &Cgroup, pid: u32) -> Result<(), StartError> {
    // Into the unified one it was born, where there is that.
    let born = cgroup.unified_dir().is_some();
    let attached = if born { cgroup.attach_after_clone(pid) } else { cgroup.attach(pid) };
    attached.map_err(step("put the dyno into its cgroup"))
}
