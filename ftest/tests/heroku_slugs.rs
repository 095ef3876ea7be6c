//! Slugs from the Heroku Platform API, for the driver that runs code from them: signed URLs that expire, and
//! checksums.

use hsup_ftest::{Checksum, Endpoint, FakeHeroku, Fault, Hsup, Room, at_once, runs_slugs};

const WEB: (&str, &str) = ("web", "cat version; exec sleep 600");

/// The first release runs.
fn running(room: &Room, api: &FakeHeroku) -> (Hsup, u32) {
    api.deploy(&[("version", "one\n")], &[WEB], &[]);
    let hsup = room.heroku(api, ["start"]).up();
    hsup.wait_line("web.1 | one");
    let pid = hsup.wait_up("web.1");
    (hsup, pid)
}

/// What the store of blobs has answered.
fn downloads(api: &FakeHeroku) -> Vec<Option<u16>> {
    api.requests_of(Endpoint::Blob).iter().map(|request| request.status).collect()
}

#[test]
fn the_code_of_a_release_is_at_app_and_is_downloaded_once() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, pid) = running(&room, &api);
    // other config vars are a release of the same slug
    api.set_config(&[("A", "1")]);
    hsup.wait_nth_line("web.1 | one", 2);
    assert_ne!(hsup.wait_up("web.1"), pid);
    assert_eq!(downloads(&api), [Some(200)]);
    api.deploy(&[("version", "two\n")], &[WEB], &[]);
    hsup.wait_line("web.1 | two");
    assert_eq!(downloads(&api), [Some(200); 2]);
    api.change(|app| app.rollback(1));
    hsup.wait_nth_line("web.1 | one", 3);
    hsup.wait_line("release v4 of myapp is live");
    api.change(|app| app.rollback(3));
    hsup.wait_nth_line("web.1 | two", 2);
    assert_eq!(downloads(&api), [Some(200); 2]);
    assert_eq!(hsup.stop().code, 0);
    // what is there need not come again, even if it could not
    api.fail(Endpoint::Blob, Fault::Status(503));
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("web.1 | two");
    assert_eq!(downloads(&api), [Some(200); 2]);
    assert!(!hsup.printed().contains("Signature="), "{}", hsup.printed());
}

#[test]
fn a_slug_with_another_checksum_is_not_run() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, pid) = running(&room, &api);
    // what the store has is not what was released
    api.fail(Endpoint::Blob, Fault::Body("not the slug".to_owned()));
    api.deploy(&[("version", "two\n")], &[WEB], &[]);
    hsup.wait_line("SHA-256");
    assert_eq!(hsup.dyno_pid("web.1"), pid);
    assert_eq!(hsup.lines("web.1 | two").len(), 0);
    api.mend();
    hsup.wait_line("release v2 of myapp is live");
    hsup.wait_line("web.1 | two");
}

#[test]
fn a_slug_without_a_checksum_is_run() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let slug = api.pack(&[("version", "one\n")]);
    api.change(|app| {
        let version = app.deploy(slug, &[WEB], &[]);
        app.checksum(version, Checksum::Unknown);
    });
    let hsup = room.heroku(&api, ["start"]).up();
    hsup.wait_line("web.1 | one");
}

#[test]
fn an_expired_url_is_asked_for_anew() {
    if !runs_slugs() {
        return;
    }
    at_once([1, 2], |times| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, _) = running(&room, &api);
        api.change(|app| app.expire_blob_urls_at_once(true));
        api.deploy(&[("version", "two\n")], &[WEB], &[]);
        api.wait_requests(Endpoint::Blob, 1 + times);
        let asked = api.requests_of(Endpoint::Slug).len();
        api.change(|app| app.expire_blob_urls_at_once(false));
        hsup.wait_line("release v2 of myapp is live");
        hsup.wait_line("web.1 | two");
        let refused = downloads(&api).iter().filter(|status| **status == Some(403)).count();
        assert!(refused >= times, "{:?}", downloads(&api));
        assert!(api.requests_of(Endpoint::Slug).len() > asked, "no fresh URL was asked for");
        assert!(!hsup.printed().contains("Signature="), "{}", hsup.printed());
    });
}

#[test]
fn a_url_that_has_expired_since_it_was_given_is_not_kept() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, _) = running(&room, &api);
    // the release is known, with its URLs, well before its slug can be had
    api.fail(Endpoint::Blob, Fault::Status(503));
    api.deploy(&[("version", "two\n")], &[WEB], &[]);
    api.wait_further(Endpoint::Blob, 1);
    api.change(|app| app.expire_blob_urls());
    api.mend();
    hsup.wait_line("web.1 | two");
}

#[test]
fn a_store_of_blobs_that_fails_for_a_while_is_tried_again() {
    if !runs_slugs() {
        return;
    }
    at_once([Fault::Status(503), Fault::Cut, Fault::Truncated, Fault::Status(404)], |fault| {
        let room = Room::new();
        let api = FakeHeroku::start(&room, "myapp");
        let (hsup, pid) = running(&room, &api);
        let what = format!("{fault:?}");
        api.fail(Endpoint::Blob, fault);
        api.deploy(&[("version", "two\n")], &[WEB], &[]);
        api.wait_further(Endpoint::Blob, 2);
        assert_eq!(hsup.dyno_pid("web.1"), pid, "{what}");
        api.mend();
        hsup.wait_line("web.1 | two");
        assert!(!hsup.printed().contains("Signature="), "{what}: {}", hsup.printed());
    });
}

#[test]
fn a_release_that_cannot_be_prepared_is_overtaken_by_the_next_one() {
    if !runs_slugs() {
        return;
    }
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let (hsup, _) = running(&room, &api);
    let slug = api.pack(&[("version", "two\n")]);
    api.change(|app| {
        let version = app.deploy(slug, &[WEB], &[]);
        app.checksum(version, Checksum::Wrong);
    });
    hsup.wait_line("SHA-256");
    api.deploy(&[("version", "three\n")], &[WEB], &[]);
    hsup.wait_line("web.1 | three");
    assert_eq!(hsup.lines("web.1 | two").len(), 0, "{}", hsup.printed());
}
