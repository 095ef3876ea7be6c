//! The fake Heroku Platform API itself, by raw bytes: the other tests are worth what it is worth.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use hsup_ftest::{Answer, Checksum, Endpoint, FakeHeroku, Fault, PATIENCE, Room};
use serde_json::json;

/// What a client sends that the API has nothing to say against.
fn headers(api: &FakeHeroku) -> String {
    let token = api.token();
    format!(
        "Host: api\r\nUser-Agent: hsup/0.1.0\r\nAccept: application/vnd.heroku+json; version=3\r\nAuthorization: Bearer {token}\r\n"
    )
}

/// The bytes that come back up to the end of the connection.
fn bytes(api: &FakeHeroku, request: &str) -> Vec<u8> {
    let mut stream = api.connect().expect("the fake listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("it can be sent");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("cannot read: {error}"),
        Ok(_) | Err(_) => bytes,
    }
}

fn send(api: &FakeHeroku, request: &str) -> Answer {
    let bytes = bytes(api, request);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("there is a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("there is a status");
    Answer { status, head, body }
}

fn get(api: &FakeHeroku, target: &str, more: &str) -> Answer {
    send(api, &format!("GET {target} HTTP/1.1\r\n{}Connection: close\r\n{more}\r\n", headers(api)))
}

fn header(answer: &Answer, name: &str) -> Option<String> {
    let prefix = format!("{name}: ");
    answer.head.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
}

fn versions(answer: &Answer) -> Vec<u64> {
    let list = answer.json();
    list.as_array().into_iter().flatten().filter_map(|release| release["version"].as_u64()).collect()
}

#[test]
fn an_app_has_releases_slugs_config_vars_and_a_formation() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    assert_eq!(versions(&get(&api, "/apps/myapp/releases", "")), [0_u64; 0]);
    api.deploy(&[("version", "one\n")], &[("web", "serve"), ("worker", "work")], &[("A", "1")]);
    api.set_config(&[("A", "2")]);
    let app = get(&api, "/apps/myapp", "").json();
    assert_eq!((&app["name"], &app["stack"]["name"]), (&"myapp".into(), &"heroku-24".into()));
    let releases = get(&api, "/apps/myapp/releases", "Range: version ..; order=desc,max=10\r\n");
    assert_eq!((releases.status, versions(&releases)), (200, vec![2, 1]));
    let release = &releases.json()[0];
    assert_eq!((&release["status"], &release["current"]), (&"succeeded".into(), &true.into()), "{release}");
    let id = release["id"].as_str().expect("it has an id");
    for name in ["2", id] {
        let config = get(&api, &format!("/apps/myapp/releases/{name}/config-vars"), "").json();
        assert_eq!(config, json!({"A": "2", "FTEST_MARK": room.mark()}));
    }
    assert_eq!(get(&api, "/apps/myapp/releases/1/config-vars", "").json()["A"], "1");
    assert_eq!(get(&api, "/apps/myapp/config-vars", "").json()["A"], "2");
    api.change(|app| app.has_release_config_vars(false));
    assert_eq!(get(&api, "/apps/myapp/releases/2/config-vars", "").status, 404);
    api.scale("worker", 3);
    let formation = get(&api, "/apps/myapp/formation", "").json();
    let quantities = [&formation[0]["quantity"], &formation[1]["quantity"]];
    assert_eq!((quantities, &formation[1]["command"]), ([&1.into(), &3.into()], &"work".into()));
    api.change(|app| app.sends_current(false));
    assert!(get(&api, "/apps/myapp/releases", "").json()[0].get("current").is_none());
    let error = get(&api, "/apps/other", "");
    assert_eq!((error.status, &error.json()["id"]), (404, &"not_found".into()));
}

#[test]
fn lists_are_paged() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[], &[("web", "serve")], &[]);
    (0..11).for_each(|_| _ = api.change(|app| app.failed_release()));
    let first = get(&api, "/apps/myapp/releases", "Range: version ..; order=desc,max=10\r\n");
    assert_eq!((first.status, versions(&first)), (206, (3..=12).rev().collect()));
    assert_eq!(header(&first, "content-range").as_deref(), Some("version 12..3; max=10"));
    let next = header(&first, "next-range").expect("there is more");
    assert_eq!(next, "version ]3..; order=desc,max=10");
    let second = get(&api, "/apps/myapp/releases", &format!("Range: {next}\r\n"));
    assert_eq!((second.status, versions(&second)), (200, vec![2, 1]));
    assert_eq!(header(&second, "next-range"), None);
    let inclusive = get(&api, "/apps/myapp/releases", "Range: version 7..; order=desc, max=2\r\n");
    assert_eq!(versions(&inclusive), [7, 6]);
    let current: Vec<_> =
        second.json().as_array().into_iter().flatten().map(|r| r["current"].clone()).collect();
    assert_eq!(current, [false, true], "a failed release is not the current one");
}

#[test]
fn what_the_client_has_already_is_not_sent_again() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[], &[("web", "serve")], &[]);
    for path in ["", "/releases", "/config-vars", "/formation", "/releases/1/config-vars"] {
        let path = format!("/apps/myapp{path}");
        let etag = header(&get(&api, &path, ""), "etag").expect("there is an ETag");
        let again = get(&api, &path, &format!("If-None-Match: {etag}\r\n"));
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert!(header(&again, "ratelimit-remaining").is_some() && header(&again, "request-id").is_some());
    }
    let etag = header(&get(&api, "/apps/myapp/releases", ""), "etag").expect("there is an ETag");
    api.set_config(&[]);
    assert_eq!(get(&api, "/apps/myapp/releases", &format!("If-None-Match: {etag}\r\n")).status, 200);
    let statuses: Vec<_> =
        api.requests_of(Endpoint::Formation).iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(200), Some(304)]);
}

#[test]
fn a_blob_is_for_those_who_have_a_signature_and_no_token() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let version = api.deploy(&[("version", "one\n")], &[("web", "serve")], &[]);
    let info = format!("/apps/myapp/slugs/{}", api.change(|app| app.slug_id(version)));
    let url = || get(&api, &info, "").json()["blob"]["url"].as_str().expect("it has one").to_owned();
    let blob = |url: &str, more: &str| {
        let target = url.strip_prefix(api.url()).expect("the fake has the blobs");
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: s3\r\nUser-Agent: hsup/0.1.0\r\nConnection: close\r\n");
        send(&api, &format!("{head}{more}\r\n"))
    };
    let (one, two) = (url(), url());
    assert_ne!(one, two, "each time the URL is signed anew");
    let bytes = blob(&one, "");
    assert_eq!((bytes.status, header(&bytes, "content-type").as_deref()), (200, Some("application/x-gzip")));
    assert_eq!(blob(&two, "").status, 200);
    let forged = one.replace("Signature=", "Signature=0");
    assert_eq!(blob(&forged, "").status, 403);
    api.change(|app| app.expire_blob_urls());
    let expired = blob(&one, "");
    assert!(expired.status == 403 && expired.body.contains("<Code>AccessDenied</Code>"), "{expired:?}");
    assert_eq!(blob(&url(), "").status, 200);
    assert_eq!(blob(&url(), &format!("Authorization: Bearer {}\r\n", api.token())).status, 400);
    assert_eq!(api.take_violations().len(), 1);
    assert!(get(&api, &info, "").json()["checksum"].as_str().is_some_and(|sum| sum.starts_with("SHA256:")));
    api.checksum(version, Checksum::Unknown);
    assert!(get(&api, &info, "").json()["checksum"].is_null());
}

#[test]
fn what_the_real_api_would_refuse_is_refused_and_noted() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    let good = headers(&api);
    let token = format!("Bearer {}", api.token());
    let cases = [
        ("no Accept", "GET /apps/myapp", good.replace("Accept", "X-Accept"), 406),
        ("another version", "GET /apps/myapp", good.replace("version=3", "version=2"), 406),
        ("no User-Agent", "GET /apps/myapp", good.replace("User-Agent", "X-User-Agent"), 400),
        ("no token", "GET /apps/myapp", good.replace("Authorization", "X-Authorization"), 401),
        ("another token", "GET /apps/myapp", good.replace(&token, "Bearer other"), 401),
        ("a bare token", "GET /apps/myapp", good.replace("Bearer ", ""), 401),
        ("a range of bytes", "GET /apps/myapp/releases", format!("{good}Range: bytes=0-10\r\n"), 416),
        ("a range of no version", "GET /apps/myapp/releases", format!("{good}Range: version x..\r\n"), 416),
        ("another path", "GET /apps/myapp/dynos", good.clone(), 404),
        ("another method", "DELETE /apps/myapp", good.clone(), 405),
        ("HEAD", "HEAD /apps/myapp", good.clone(), 405),
    ];
    for (what, line, headers, status) in cases {
        let answer = send(&api, &format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if what != "HEAD" {
            let error = answer.json();
            assert!(error["id"].is_string() && error["message"].is_string(), "{what}: {error}");
        }
        assert_eq!(api.take_violations().len(), 1, "{what}");
    }
    api.revoke_token();
    assert_eq!(get(&api, "/apps/myapp", "").status, 401);
    api.restore_token();
    assert_eq!(get(&api, "/apps/myapp", "").status, 200);
    assert_eq!(api.take_violations(), [""; 0], "a revoked token is not the client's fault");
}

#[test]
fn a_violation_fails_the_test() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    assert_eq!(get(&api, "/nowhere", "").status, 404);
    let noisy = thread::spawn(move || drop(api)).join();
    assert!(noisy.is_err());
}

#[test]
fn faults_strike_as_often_as_they_are_to() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[], &[("web", "serve")], &[]);
    let releases = || get(&api, "/apps/myapp/releases", "");
    api.fail_next(2, Endpoint::Releases, Fault::Status(503));
    assert_eq!([releases().status, releases().status, releases().status], [503, 503, 200]);
    api.fail(None, Fault::RateLimited(7));
    let limited = get(&api, "/apps/myapp/formation", "");
    assert_eq!((limited.status, header(&limited, "retry-after").as_deref()), (429, Some("7")));
    assert_eq!(releases().status, 429);
    api.mend();
    api.fail_next(1, Endpoint::Releases, Fault::Body("[{".to_owned()));
    assert_eq!(releases().body, "[{");
    api.fail_next(1, Endpoint::Releases, Fault::edited(|releases| releases[0]["version"] = "1".into()));
    assert_eq!(releases().json()[0]["version"], "1");
    api.fail_next(1, Endpoint::Releases, Fault::Truncated);
    let cut = releases();
    let length: usize = header(&cut, "content-length").and_then(|n| n.parse().ok()).expect("it has a length");
    assert_eq!(cut.body.len(), length / 2, "{cut:?}");
    api.fail_next(1, Endpoint::Releases, Fault::Cut);
    let request = format!("GET /apps/myapp/releases HTTP/1.1\r\n{}\r\n", headers(&api));
    assert_eq!(bytes(&api, &request), b"");
    assert_eq!(api.requests_of(Endpoint::Releases).last().map(|request| request.status), Some(None));
    assert_eq!(releases().status, 200);
}

#[test]
fn answers_are_held_back_until_they_are_released() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.fail(Endpoint::App, Fault::Held);
    thread::scope(|scope| {
        let asked = scope.spawn(|| get(&api, "/apps/myapp", ""));
        api.wait_requests(Endpoint::App, 1);
        assert_eq!(get(&api, "/apps/myapp/releases", "").status, 200, "the others are not held back");
        assert_eq!(api.requests_of(Endpoint::App)[0].status, None);
        api.mend();
        assert_eq!(asked.join().map(|answer| answer.status).ok(), Some(200));
    });
}

#[test]
fn a_change_comes_between_two_answers() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    api.deploy(&[], &[("web", "one")], &[]);
    let slug = api.pack(&[]);
    api.after_next(Endpoint::Releases, |app| _ = app.deploy(slug, &[("web", "two")], &[]));
    assert_eq!(versions(&get(&api, "/apps/myapp/releases", "")), [1]);
    assert_eq!(get(&api, "/apps/myapp/formation", "").json()[0]["command"], "two");
    assert_eq!(versions(&get(&api, "/apps/myapp/releases", "")), [1, 2]);
}

#[test]
fn it_goes_down_and_comes_up_at_the_same_port() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    for _ in 0..20 {
        let mut idle = api.connect().expect("it listens");
        idle.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        assert_eq!(get(&api, "/apps/myapp", "").status, 200);
        api.down();
        let refused = api.connect().map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
        assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)), "a connection that there was is closed");
        api.up();
    }
}

#[test]
fn it_stands_in_for_a_proxy() {
    let room = Room::new();
    let api = FakeHeroku::start(&room, "myapp");
    assert_eq!(get(&api, "http://api.example.invalid/apps/myapp", "").status, 200);
    let request = &api.requests()[0];
    assert_eq!(request.authority.as_deref(), Some("api.example.invalid"));
    assert_eq!((request.target.as_str(), request.authorized), ("/apps/myapp", true));
}
