//! The isolation of a native dyno beside that of `runc run` with the defaults of `runc spec`, on the same root file
//! system: ours is at least as strict in each property. `--nocapture` shows both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use hsup_ftest::{Driver, Room, is_about, missing, stack};
use serde_json::{Value, json};

/// Says what a process inside sees, one property a line.
const LOOK: &str = r#"
echo uid=$(id -u)
for f in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do
  echo $f=$(awk -v f=$f: '$1 == f {print $2}' /proc/self/status)
done
for n in cgroup ipc mnt net pid uts; do echo ns-$n=$(readlink /proc/self/ns/$n); done
echo root=$(awk '$5 == "/" {print $6}' /proc/self/mountinfo | tail -n 1 | cut -d, -f1)
echo devices=$(ls -m -w 0 /dev)
echo processes=$(ls -d /proc/[0-9]* | wc -l)
for p in /proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats \
         /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
  if [ -d $p ]; then n=$(ls -A $p 2>/dev/null | wc -l); else n=$(head -c 9 $p 2>/dev/null | wc -c); fi
  echo shows-$p=$n
done
for p in / /etc /usr /proc/bus /proc/fs /proc/irq /proc/sys /proc/sys/kernel /sys /sys/fs/cgroup /proc/sysrq-trigger /dev; do
  if [ -d $p ]; then (: > $p/.probe) 2>/dev/null; else (: >> $p) 2>/dev/null; fi
  r=$?; rm -f $p/.probe 2>/dev/null
  [ $r = 0 ] && echo writes-$p=yes || echo writes-$p=no
done
echo suid-mounts=$(awk '$6 !~ /nosuid/ && $6 ~ /^rw/' /proc/self/mountinfo | wc -l)
for n in user mount net; do
  if unshare --$n true 2>/dev/null; then echo unshares-$n=yes; else echo unshares-$n=no; fi
done
echo max-processes=$(ulimit -u)
echo core=$(ulimit -c)
"#;

fn facts(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// What runc gives, in the namespaces of the room.
fn of_runc(room: &Room) -> Option<BTreeMap<String, String>> {
    let bundle = room.path("bundle");
    fs::create_dir(&bundle).expect("a directory can be made");
    let spec = Command::new("runc").args(["spec", "--bundle"]).arg(&bundle).status();
    if !spec.is_ok_and(|status| status.success()) {
        missing("runc");
        return None;
    }
    let path = bundle.join("config.json");
    let config = fs::read_to_string(&path).expect("runc has written it");
    let mut config: Value = serde_json::from_str(&config).expect("it is JSON");
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["bash", "-c", LOOK]);
    config["root"]["path"] = stack().display().to_string().into();
    fs::write(&path, config.to_string()).expect("a file can be written");
    let words = room.namespaces().expect("the driver is native").enter(Path::new("/"));
    let (program, args) = words.split_first().expect("there is nsenter");
    let mut runc = Command::new(program);
    runc.args(args).args(["runc", "--root"]).arg(room.path("runc")).args(["run", "--bundle"]).arg(&bundle);
    let output = runc.arg(room.mark()).output().expect("there is runc");
    assert!(output.status.success(), "{output:?}");
    Some(facts(&String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn a_dyno_is_at_least_as_isolated_as_a_container_of_runc() {
    if !is_about(Driver::Native) {
        return;
    }
    let room = Room::new();
    let Some(runc) = of_runc(&room) else { return };
    room.release(&room.app());
    let ended = room.hsup(["run", "bash", "-c", LOOK]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let ours = facts(&ended.stdout);
    assert_eq!(ours.keys().collect::<Vec<_>>(), runc.keys().collect::<Vec<_>>());
    for (name, ours) in &ours {
        println!("| {name} | {ours} | {} |", runc[name]);
        compare(name, ours, &runc[name]);
    }
    assert_ne!(ours["uid"], "0");
}

/// Ours is the same, or stricter.
fn compare(name: &str, ours: &str, runc: &str) {
    let bits = |text: &str| u64::from_str_radix(text, 16).expect("a mask of capabilities");
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let list = |text: &str| text.split(", ").map(str::to_owned).collect::<BTreeSet<_>>();
    let namespaces = |text: &str| {
        let kind = text.split(':').next().unwrap_or_default();
        let of_host = fs::read_link(format!("/proc/self/ns/{kind}")).expect("there is such a namespace");
        of_host.to_string_lossy() == text
    };
    let strict = match name {
        "uid" => ours != "0",
        "NoNewPrivs" | "Seccomp" => number(ours) >= number(runc),
        "devices" => list(ours).is_subset(&list(runc)),
        "root" => ours == "ro",
        // its own, of which some may have ended meanwhile
        "processes" => number(ours) <= 8,
        "max-processes" | "core" | "suid-mounts" => number(ours) <= number(runc),
        _ if name.starts_with("Cap") => bits(ours) & !bits(runc) == 0,
        _ if name.starts_with("ns-") => namespaces(runc) || !namespaces(ours),
        _ if name.starts_with("shows-") => number(ours) <= number(runc),
        _ if name.starts_with("writes-") || name.starts_with("unshares-") => ours == "no" || runc == "yes",
        other => panic!("{other} is not compared"),
    };
    assert!(strict, "{name}: ours {ours}, runc's {runc}");
}
