//! Golden tables: hosts as they are met, by their texts and a few files, and where dynos go on each.

use super::*;

const MEMORY: &str = "memory=512MiB";
const ALL: &str = "memory=512MiB,cpu=0.5,pids=256,io=100";
const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

struct Fake {
    dir: tempfile::TempDir,
    mountinfo: &'static str,
    cgroup: &'static str,
}

impl Fake {
    fn new(mountinfo: &'static str, cgroup: &'static str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), mountinfo, cgroup }
    }

    /// A directory below /sys/fs/cgroup with the controllers that it has, as every v2 cgroup but the top one.
    fn with(self, dir: &str, controllers: &str) -> Self {
        let this = self.with_top(dir, controllers);
        fs::write(this.path(dir).join("cgroup.type"), "domain\n").unwrap();
        this
    }

    fn with_top(self, dir: &str, controllers: &str) -> Self {
        let path = self.path(dir);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cgroup.controllers"), controllers).unwrap();
        self
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("sys/fs/cgroup").join(below)
    }

    fn detect(&self) -> Hierarchies {
        let (mountinfo, cgroup) = (self.mountinfo.to_owned(), self.cgroup.to_owned());
        let is_delegated = |dir: &Path| dir.ends_with("hsup.service");
        Hierarchies::detect(&Host { root: self.dir.path().to_owned(), mountinfo, cgroup, is_delegated })
    }

    /// Where the directories of a dyno are, below /sys/fs/cgroup.
    fn plan(&self, limits: &str) -> Vec<String> {
        let paths = self.detect().plan("web.1", &limits.parse().unwrap()).unwrap();
        let below = |path: PathBuf| path.strip_prefix(self.path("")).unwrap().display().to_string();
        paths.into_iter().map(below).collect()
    }

    fn refusal(&self, limits: &str) -> String {
        let error = self.detect().plan("web.1", &limits.parse().unwrap()).unwrap_err().to_string();
        error.replace(&self.dir.path().display().to_string(), "")
    }
}

#[test]
fn v2_delegated_by_systemd() {
    let own = "system.slice/hsup.service";
    let fake = Fake::new(UNIFIED, "0::/system.slice/hsup.service\n")
        .with_top("", "cpu io memory pids\n")
        .with(own, "cpu io memory pids\n");
    let found = fake.detect();
    assert_eq!(found.kind(), Kind::V2);
    assert_eq!(found.unified.as_ref().unwrap().leaf, Some(fake.path(own).join("hsup")));
    assert_eq!(fake.plan(""), ["system.slice/hsup.service/dynos/web.1"]);
    assert_eq!(fake.plan(ALL), ["system.slice/hsup.service/dynos/web.1"]);
}

#[test]
fn v2_delegated_and_hsup_has_moved_to_its_leaf() {
    let fake = Fake::new(UNIFIED, "0::/system.slice/hsup.service/hsup\n")
        .with_top("", "memory")
        .with("system.slice/hsup.service", "memory")
        .with("system.slice/hsup.service/hsup", "");
    assert_eq!(fake.plan(MEMORY), ["system.slice/hsup.service/dynos/web.1"]);
}

#[test]
fn v2_not_delegated() {
    let fake = Fake::new(UNIFIED, "0::/user.slice/user-0.slice/session-3.scope\n")
        .with_top("", "cpu io memory pids")
        .with("user.slice/user-0.slice/session-3.scope", "memory pids");
    assert_eq!(fake.plan(ALL), ["hsup/web.1"]);
    assert_eq!(fake.detect().unified.unwrap().leaf, None);
}

#[test]
fn v2_root_of_a_cgroup_namespace() {
    let fake = Fake::new(UNIFIED, "0::/\n").with("", "memory pids");
    assert_eq!(fake.plan("memory=512MiB,pids=256"), ["dynos/web.1"]);
    assert_eq!(fake.detect().unified.unwrap().leaf, Some(fake.path("hsup")));
    let refusal = "limit io cannot be kept: this host has no io controller that hsup may use: mount or delegate it, \
                   or leave the limit out";
    assert_eq!(fake.refusal("memory=512MiB,io=100"), refusal);
}

#[test]
fn v2_that_is_mounted_read_only() {
    let mountinfo = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
    let fake = Fake::new(mountinfo, "0::/\n").with("", "memory pids");
    assert!(fake.plan("").is_empty());
    let refusal = "limit memory cannot be kept: this host has no memory controller that hsup may use: \
                   /sys/fs/cgroup cannot be written; have it mounted read-write, or leave the limit out; \
                   limit pids cannot be kept: this host has no pids controller that hsup may use: \
                   /sys/fs/cgroup cannot be written; have it mounted read-write, or leave the limit out";
    assert_eq!(fake.refusal("memory=512MiB,pids=256"), refusal);
}

#[test]
fn v2_delegated_without_a_controller() {
    let fake = Fake::new(UNIFIED, "0::/system.slice/hsup.service\n")
        .with_top("", "memory pids")
        .with("system.slice", "pids")
        .with("system.slice/hsup.service", "pids");
    assert_eq!(fake.plan("pids=256"), ["system.slice/hsup.service/dynos/web.1"]);
    let refusal = "limit memory cannot be kept: the memory controller cannot be enabled in \
                   /sys/fs/cgroup/system.slice/hsup.service: /sys/fs/cgroup does not hand it on; under systemd give \
                   the unit Delegate=yes, or leave the limit out";
    assert_eq!(fake.refusal(MEMORY), refusal);
}

const HYBRID: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
                      39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

#[test]
fn hybrid() {
    let cgroup = "9:name=systemd:/\n8:pids:/\n7:blkio:/\n4:memory:/api/95ee\n2:cpuacct:/\n1:cpu:/\n0::/\n";
    let fake = Fake::new(HYBRID, cgroup).with_top("unified", "hugetlb");
    for dir in ["cpu", "memory/api/95ee", "blkio", "pids"] {
        fs::create_dir_all(fake.path(dir)).unwrap();
    }
    assert_eq!(fake.detect().kind(), Kind::Hybrid);
    assert_eq!(fake.plan(""), ["unified/hsup/web.1"]);
    assert_eq!(fake.plan(MEMORY), ["unified/hsup/web.1", "memory/api/95ee/hsup/web.1"]);
    let all = [
        "unified/hsup/web.1",
        "memory/api/95ee/hsup/web.1",
        "cpu/hsup/web.1",
        "pids/hsup/web.1",
        "blkio/hsup/web.1",
    ];
    assert_eq!(fake.plan(ALL), all);
    let refusal = "limit swap cannot be kept: cgroup v1 limits memory and swap together only: give the dyno a limit \
                   of memory as well";
    assert_eq!(fake.refusal("swap=0"), refusal);
}

#[test]
fn hybrid_under_systemd_moves_nothing_where_v2_has_no_controllers() {
    let cgroup = "4:memory:/system.slice/hsup.service\n0::/system.slice/hsup.service\n";
    let own = "unified/system.slice/hsup.service";
    let fake = Fake::new(HYBRID, cgroup).with_top("unified", "").with(own, "");
    fs::create_dir_all(fake.path("memory/system.slice/hsup.service")).unwrap();
    let dynos = "unified/system.slice/hsup.service/dynos";
    let dyno = "memory/system.slice/hsup.service/hsup/web.1";
    assert_eq!(fake.plan(MEMORY), [&format!("{dynos}/web.1"), dyno]);
    fake.detect().prepare().unwrap();
    assert!(fake.path(dynos).is_dir());
    assert!(!fake.path(own).join("hsup").exists());
}

#[test]
fn v1_in_a_container() {
    let mountinfo = "35 31 0:32 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     36 31 0:33 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
    let fake = Fake::new(mountinfo, "3:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n").with_top("memory", "");
    assert_eq!(fake.detect().kind(), Kind::V1);
    assert!(fake.plan("").is_empty());
    assert_eq!(fake.plan(MEMORY), ["memory/hsup/web.1"]);
    let refusal = "limit cpu cannot be kept: this host has no cpu controller that hsup may use: \
                   /sys/fs/cgroup/cpu,cpuacct cannot be written; have it mounted read-write, or leave the limit out";
    assert_eq!(fake.refusal("memory=512MiB,cpu=1"), refusal);
}

#[test]
fn no_cgroups_at_all() {
    let fake = Fake::new("22 27 0:21 / /proc rw - proc proc rw\n", "");
    assert_eq!(fake.detect().kind(), Kind::Absent);
    assert!(fake.plan("").is_empty());
    fake.detect().prepare().unwrap();
    let refusal = "limit memory cannot be kept: this host has no memory controller that hsup may use: mount or \
                   delegate it, or leave the limit out";
    assert_eq!(fake.refusal(MEMORY), refusal);
}

#[test]
fn controllers_are_handed_down_and_processes_moved() {
    let own = "system.slice/hsup.service";
    let fake = Fake::new(UNIFIED, "0::/system.slice/hsup.service\n").with(own, "memory");
    for dir in ["", "hsup", "dynos"] {
        let dir = fake.path(own).join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
        fs::write(dir.join("cgroup.procs"), "").unwrap();
    }
    fs::write(fake.path(own).join("cgroup.procs"), "1234\n").unwrap();
    let mut found = fake.detect();
    found.prepare().unwrap();
    let text = |file: &str| fs::read_to_string(fake.path(own).join(file)).unwrap();
    assert_eq!(text("hsup/cgroup.procs"), "1234");
    assert_eq!(text("cgroup.subtree_control"), "+memory");
    assert_eq!(text("dynos/cgroup.subtree_control"), "+memory");
    assert!(found.unkept(&MEMORY.parse().unwrap()).is_empty());

    // A controller that cannot be had is told of only when it is needed.
    fs::remove_file(fake.path(own).join("dynos/cgroup.subtree_control")).unwrap();
    found.prepare().unwrap();
    assert!(found.plan("web.1", &Limits::default()).is_ok());
    let error = found.plan("web.1", &MEMORY.parse().unwrap()).unwrap_err().to_string();
    assert!(
        error.starts_with("limit memory cannot be kept: the memory controller cannot be enabled in "),
        "{error}"
    );
    assert!(error.contains("dynos: failed to write +memory to "), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn processes_of_a_foreign_pid_namespace_are_not_taken_for_oneself() {
    let fake = Fake::new(UNIFIED, "0::/\n").with("", "memory");
    fs::write(fake.path("cgroup.procs"), "0\n").unwrap();
    fs::create_dir_all(fake.path("hsup")).unwrap();
    fs::write(fake.path("hsup/cgroup.procs"), "").unwrap();
    let mut found = fake.detect();
    found.prepare().unwrap();
    assert_eq!(fs::read_to_string(fake.path("hsup/cgroup.procs")).unwrap(), "");
    let error = found.plan("web.1", &MEMORY.parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("it is of a foreign pid namespace"), "{error}");
}

#[test]
fn names_are_file_names() {
    let fake = Fake::new("", "");
    for bad in ["", ".", "..", "a/b", "a\nb"] {
        assert!(fake.detect().plan(bad, &Limits::default()).is_err(), "{bad:?}");
    }
}
