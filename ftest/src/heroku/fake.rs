//! The fake as the tests hold it: deploy, break, mend, and look at what has been asked.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{mem, thread};

use super::app::{Checksum, HerokuApp};
use super::faults::Fault;
use super::requests::{Endpoint, Request};
use super::server::Server;
use super::state::Shared;
use crate::namespaces::{Namespaces, enter_network};
use crate::room::Room;
use crate::slug;

static SLUGS: AtomicU64 = AtomicU64::new(0);

/// A Heroku Platform API with one app. When it is dropped, no request may have been one that the real API
/// would have refused, unless the test has taken note of it by [`FakeHeroku::take_violations`].
#[derive(Debug)]
pub struct FakeHeroku {
    shared: Arc<Shared>,
    server: Server,
    network: Option<File>,
    token: String,
    dir: PathBuf,
}

impl Drop for FakeHeroku {
    fn drop(&mut self) {
        if !thread::panicking() {
            let violations = self.take_violations();
            assert!(violations.is_empty(), "the real API would have refused this: {violations:#?}");
        }
    }
}

impl FakeHeroku {
    /// Starts one with an app of this name, which has no release yet. Its dynos will have the room's mark.
    pub fn start(room: &Room, app: &str) -> Self {
        let token = format!("HRKU-t0ken-{}", room.mark());
        let heroku_app = HerokuApp::new(app, room.mark());
        let given = token.clone();
        let network = || room.namespaces().map(Namespaces::network);
        let (server, shared) =
            Server::start(network(), move |base| Arc::new(Shared::new(heroku_app, given, base)));
        Self { shared, server, network: network(), token, dir: room.dir().to_owned() }
    }

    /// Its URL: no path, no `/` at the end.
    pub fn url(&self) -> &str {
        &self.shared.base
    }

    /// A connection to it.
    ///
    /// # Errors
    /// If it is refused.
    ///
    /// # Panics
    /// Never: a thread that connects does not panic.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let address = self.url().trim_start_matches("http://");
        let connect = || {
            self.network.iter().for_each(enter_network);
            TcpStream::connect(address)
        };
        thread::scope(|scope| scope.spawn(connect).join().expect("it connects or tells why not"))
    }

    /// The token that it takes.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The name of the app.
    pub fn app(&self) -> String {
        self.change(|app| app.name.clone())
    }

    /// Changes the app, or asks for what it is: no request is answered meanwhile.
    pub fn change<T>(&self, change: impl FnOnce(&mut HerokuApp) -> T) -> T {
        change(&mut self.shared.state().app)
    }

    /// Packs files (path below the app's directory, text) into a slug.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn pack(&self, files: &[(&str, &str)]) -> Vec<u8> {
        let name = format!("heroku-{}.tgz", SLUGS.fetch_add(1, Ordering::Relaxed));
        let files = if files.is_empty() { &[(".keep", "")] } else { files };
        fs::read(slug::pack(&self.dir, &name, files)).expect("the slug is there")
    }

    /// Releases files with process types (type, command) and config vars; returns the version.
    pub fn deploy(&self, files: &[(&str, &str)], types: &[(&str, &str)], config: &[(&str, &str)]) -> u64 {
        let slug = self.pack(files);
        self.change(|app| app.deploy(slug, types, config))
    }

    /// Releases the code that there is with these config vars; returns the version.
    pub fn set_config(&self, config: &[(&str, &str)]) -> u64 {
        self.change(|app| app.set_config(config))
    }

    /// Sets the quantity of a process type, which makes no release.
    pub fn scale(&self, process_type: &str, quantity: u32) {
        self.change(|app| app.scale(process_type, quantity));
    }

    /// Sets the status of a release.
    pub fn release_status(&self, version: u64, status: &str) {
        self.change(|app| app.release_status(version, status));
    }

    /// Says something else, or the truth again, of the checksum of a release's slug.
    pub fn checksum(&self, version: u64, checksum: Checksum) {
        self.change(|app| app.checksum(version, checksum));
    }

    /// From now on the token is refused.
    pub fn revoke_token(&self) {
        self.shared.state().tokens.revoked = true;
    }

    /// From now on the token is taken again.
    pub fn restore_token(&self) {
        self.shared.state().tokens.revoked = false;
    }

    /// From now on a fault strikes each answer of a resource, or each of the API (`None`), until
    /// [`FakeHeroku::mend`].
    pub fn fail(&self, endpoint: impl Into<Option<Endpoint>>, fault: Fault) {
        self.shared.state().faults.plan(endpoint.into(), fault, None);
    }

    /// A fault strikes the next answers of a resource, or of the API (`None`).
    pub fn fail_next(&self, times: u32, endpoint: impl Into<Option<Endpoint>>, fault: Fault) {
        self.shared.state().faults.plan(endpoint.into(), fault, Some(times));
    }

    /// Lifts all faults; answers that were held back are given.
    pub fn mend(&self) {
        self.shared.state().faults.lift();
        self.shared.lifted.send_replace(());
    }

    /// Changes the app right after the next answer of a resource, before anything else is answered.
    pub fn after_next(&self, endpoint: Endpoint, change: impl FnOnce(&mut HerokuApp) + Send + 'static) {
        self.shared.state().hooks.push((endpoint, Box::new(change)));
    }

    /// Refuses connections from now on, and closes those that there are.
    pub fn down(&self) {
        self.server.down();
    }

    /// Accepts connections again.
    pub fn up(&self) {
        self.server.up();
    }

    /// All that has been asked.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// What has been asked of a resource.
    pub fn requests_of(&self, endpoint: Endpoint) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.endpoint == endpoint).collect()
    }

    /// Waits until a resource has been asked for n times in all; returns these requests.
    pub fn wait_requests(&self, endpoint: Endpoint, n: usize) -> Vec<Request> {
        let of =
            |requests: &[Request]| requests.iter().filter(|request| request.endpoint == endpoint).count();
        self.shared.wait(&format!("request {n} of {endpoint:?}"), |requests| of(requests) >= n);
        self.requests_of(endpoint)
    }

    /// Waits until a resource has been asked for n times more than up to now; returns these requests.
    pub fn wait_further(&self, endpoint: Endpoint, n: usize) -> Vec<Request> {
        let before = self.requests_of(endpoint).len();
        self.wait_requests(endpoint, before + n).split_off(before)
    }

    /// Waits for n polls that begin after now, and for the end of all of them but the last.
    pub fn wait_polls(&self, n: usize) {
        self.wait_further(Endpoint::Releases, n + 1);
    }

    /// What the real API would have refused so far, which is then forgotten.
    pub fn take_violations(&self) -> Vec<String> {
        mem::take(&mut self.shared.state().violations)
    }
}
