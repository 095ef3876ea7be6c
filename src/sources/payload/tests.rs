//! The golden payload, the round trip, and payload files.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use proptest::prelude::*;
use tokio::sync::watch;

use super::*;
use crate::sources::link;

const GOLDEN: &str = r#"{"App":{"Version":1,"Name":"myapp","Env":{"A":"s3cret"},"Processes":[{"Args":["./web"],"Quantity":1,"Type":"web"}]},"Action":"start","Quantities":{"web":2},"Args":[],"OneShot":true,"StartNumber":3,"SkipBuild":true,"Binds":[{"Host":"/a","Inside":"/b"}]}"#;

fn golden() -> Startup {
    decode(&STANDARD.encode(GOLDEN)).unwrap()
}

#[test]
fn the_golden_payload() {
    let startup = golden();
    assert_eq!(startup.release.app.as_str(), "myapp");
    let quantities = Quantities::Explicit([("web".parse().unwrap(), 2.try_into().unwrap())].into());
    assert_eq!(startup.action, Action::Start(quantities));
    assert_eq!((startup.one_shot, startup.start_number, startup.skip_build), (true, 3, true));
    assert_eq!(startup.binds, ["/a:/b".parse().unwrap()]);
    assert_eq!(String::from_utf8(STANDARD.decode(encode(&startup)).unwrap()).unwrap(), GOLDEN);
}

#[test]
fn no_error_shows_the_payload() {
    let damaged = [
        ("\"Version\":1,", "\"Version\":\"s3cret\","),
        ("\"Name\":\"myapp\",", ""),
        ("\"start\"", "\"s3cret\""),
        ("\"start\"", "\"run\""),
        ("\"StartNumber\":3", "\"StartNumber\":\"s3cret\""),
        ("\"OneShot\":true,", ""),
        ("{\"web\":2}", "{\"web\":\"s3cret\"}"),
        ("\"Args\":[]", "\"Args\":\"s3cret\""),
        ("{\"A\":\"s3cret\"}", "\"s3cret\""),
        ("}]}", "}]"),
    ];
    for (from, to) in damaged {
        let json = GOLDEN.replacen(from, to, 1);
        assert_ne!(json, GOLDEN);
        let error = decode(&STANDARD.encode(&json)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
    assert!(matches!(decode("s3cret!"), Err(PayloadError::NotBase64)));
}

#[test]
fn a_payload_file_is_gone_once_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payload");
    fs::write(&path, format!("{}\n", encode(&golden()))).unwrap();
    assert_eq!(read_file(&path).unwrap(), golden());
    assert!(!path.exists());
    fs::write(&path, "no payload").unwrap();
    assert!(matches!(read_file(&path), Err(PayloadError::NotBase64)));
    assert!(!path.exists());
    assert!(matches!(read_file(&path), Err(PayloadError::Read { .. })));
}

#[test]
fn only_a_regular_file_is_a_payload_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    fs::write(&target, encode(&golden())).unwrap();
    let (fifo, link) = (dir.path().join("fifo"), dir.path().join("link"));
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    symlink(&target, &link).unwrap();
    for odd in [dir.path(), &fifo, &link] {
        assert!(matches!(read_file(odd), Err(PayloadError::NotAFile { .. })), "{}", odd.display());
    }
    assert!(target.exists());
}

#[tokio::test]
async fn the_source_publishes_and_returns() {
    let (releases, seen) = watch::channel(None);
    let source = Box::new(PayloadSource::new(golden().release));
    assert!(source.follow(link(releases, &crate::sources::Reread::default())).await.is_ok());
    assert_eq!(*seen.borrow().clone().unwrap().release, golden().release);
}

fn startups() -> impl Strategy<Value = Startup> {
    let text = "[^\u{0}]{0,12}";
    let quantity = (0_u32..=10_000).prop_map(|n| Quantity::try_from(n).unwrap());
    let command = proptest::collection::vec(text, 2..4).prop_map(|args| Command::try_from(args).unwrap());
    let processes =
        proptest::collection::btree_map("x[a-z0-9_-]{0,9}", (command.clone(), quantity.clone()), 0..4);
    let quantities = proptest::collection::btree_map(
        "[a-z]{1,9}".prop_map(|name| name.parse::<ProcessType>().unwrap()),
        quantity,
        0..4,
    );
    let action = prop_oneof![
        Just(Action::Start(Quantities::OfRelease)),
        quantities.prop_map(|map| Action::Start(Quantities::Explicit(map))),
        command.prop_map(Action::Run),
        Just(Action::Build),
    ];
    let env = proptest::collection::btree_map("[A-Z_]{5,9}", text, 0..4);
    let slug = proptest::option::of(prop_oneof!["[a-z/.]{1,9}", "https://u:p@h/[a-z]{0,5}\\?x=1"]);
    let rest = (any::<bool>(), any::<u32>(), any::<bool>(), any::<u64>(), any::<Option<[u8; 32]>>());
    (action, env, slug, processes, rest).prop_map(|(action, env, slug, processes, rest)| {
        let (one_shot, start_number, skip_build, version, digest) = rest;
        let mut startup = Startup { action, one_shot, start_number, skip_build, ..golden() };
        let release = &mut startup.release;
        release.version.0 = version;
        release.slug_checksum = digest.map(crate::model::Sha256Digest);
        release.slug = slug.map(|slug| slug.parse().unwrap());
        release.logplex_url = Some("syslog://u:p@h:514".to_owned());
        for (name, value) in env {
            release.config.set(name.parse().unwrap(), value).unwrap();
        }
        for (name, (command, quantity)) in processes {
            let process_type = name.parse().unwrap();
            release.formation.add(crate::model::Process::new(process_type, command, quantity)).unwrap();
        }
        startup
    })
}

proptest! {
    #[test]
    fn payloads_round_trip(startup in startups()) {
        prop_assert_eq!(decode(&encode(&startup)).unwrap(), startup);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,60}", json in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = decode(&text);
        let _ = decode(&STANDARD.encode(json));
    }
}
