use super::*;
use crate::native::testing::record;

fn files_of(state_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(state_dir.join("native/runs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn a_record_is_there_from_enter_to_close() {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let run = ledger.new_run("web.1");
    let mut entry = ledger.enter(record(&run)).unwrap();
    assert_eq!(files_of(state.path()), [format!("{run}.json")]);
    let path = state.path().join(format!("native/runs/{run}.json"));
    assert_eq!(read(&path).unwrap(), Reading::Record(Box::new(record(&run))));

    let init = Init::of(std::process::id());
    assert!(init.is_some());
    entry.update(|record| record.init = init).unwrap();
    let Reading::Record(read_again) = read(&path).unwrap() else { panic!("no record") };
    assert_eq!((*read_again).clone(), Record { init, ..record(&run) });
    assert_eq!(&*read_again, entry.record());

    entry.close().unwrap();
    assert_eq!(files_of(state.path()), [""; 0]);
    assert_eq!(read(&path).unwrap(), Reading::Gone);
}

#[test]
fn an_entry_that_is_dropped_stays() {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    drop(ledger.enter(record(&ledger.new_run("web.1"))).unwrap());
    assert_eq!(files_of(state.path()).len(), 1);
}

#[test]
fn runs_are_named_apart_and_tell_their_owner_whatever_the_dyno_is_called() {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let long = "x".repeat(300);
    for dyno in ["web.1", "my-worker.2", "../../etc", "", "a/b c\n", ".hidden", "dyno-1-2-3-4", &long] {
        let (run, again) = (ledger.new_run(dyno), ledger.new_run(dyno));
        assert_ne!(run, again);
        assert_eq!(run.owner(), &Owner::me());
        assert_eq!(run.as_str().parse(), Ok(run.clone()), "{dyno}");
        let name = file_name(&run);
        assert_eq!(Path::new(&name).file_name(), Some(name.as_ref()));
        let entry = ledger.enter(record(&run)).unwrap();
        assert_eq!(run_ids(&state.path().join("native/runs")).unwrap(), [run]);
        entry.close().unwrap();
    }
    assert!(ledger.new_run("web.1").as_str().starts_with("web.1-"));
    for text in ["", "web.1", "web.1-1", "a/b-c-1-2-3-4", "web.1-0a-1-2-3-x"] {
        assert!(text.parse::<RunId>().is_err(), "{text}");
    }
}

#[test]
fn what_is_no_record_is_told_apart() {
    let garbage = |bytes: &[u8]| matches!(parse(bytes), Reading::Garbage(_));
    let run = RunId::new("web.1", &Owner::me(), 1);
    let record = record(&run);
    let whole = line(&record).unwrap();
    for end in 0..whole.len() {
        assert!(garbage(&whole[..end]), "{end}");
    }
    let reading = Reading::Record(Box::new(record.clone()));
    assert_eq!(parse(&whole), reading);
    // An update that is not whole changes nothing.
    let update = line(&Record { link: None, ..record.clone() }).unwrap();
    for end in 0..update.len() {
        assert_eq!(parse(&[&whole, &update[..end]].concat()), reading, "{end}");
    }
    let updated = Reading::Record(Box::new(Record { link: None, ..record }));
    assert_eq!(parse(&[whole, update].concat()), updated);
    assert!(garbage(b"\0\0\0\0"));
    assert!(garbage(b"\xff\xfe"));
    assert!(garbage(b"{\"format\":1,\"run\":\"x\"}\n"));
    assert!(garbage(b"{\"run\":\"x\"}\n"));
    assert_eq!(parse(b"{\"format\":2,\"anything\":[]}\n"), Reading::Foreign(2));
}

#[test]
fn a_record_that_cannot_be_written_leaves_no_file() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let run = ledger.new_run("web.1");
    let odd = PathBuf::from(OsStr::from_bytes(b"/\xff"));
    let result = ledger.enter(Record { cgroups: vec![odd], ..record(&run) });
    assert!(matches!(result, Err(LedgerError::Encode { .. })));
    assert_eq!(files_of(state.path()), [""; 0]);
    let run = ledger.new_run("web.1");
    fs::create_dir(state.path().join(format!("native/runs/{run}.json"))).unwrap();
    assert!(matches!(ledger.enter(record(&run)), Err(LedgerError::Io { .. })));
    assert_eq!(files_of(state.path()).len(), 1);
}
