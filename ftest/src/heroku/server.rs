//! HTTP on loopback: a thread with a runtime of its own, which can refuse connections and accept them again.

use std::fs::File;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc as channel};
use std::thread::{self, JoinHandle};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::reply::{CutOff, Sent};
use super::requests::Request;
use super::state::{Shared, Verdict};
use crate::namespaces::enter_network;

/// Enough for whatever connects while the fake is busy.
const BACKLOG: u32 = 128;

/// The server. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Command {
    what: What,
    done: channel::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Down,
    Up,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Server {
    /// Starts one on a free port; what it serves is made from its URL.
    /// It is in a network of the test's own, if that has one.
    pub(super) fn start(
        network: Option<File>,
        shared: impl FnOnce(String) -> Arc<Shared> + Send + 'static,
    ) -> (Self, Arc<Shared>) {
        let (commands, received) = mpsc::unbounded_channel();
        let (tell, told) = channel::channel();
        let thread = thread::spawn(move || {
            network.iter().for_each(enter_network);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
            let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), &runtime);
            let address = socket.local_addr().expect("it is bound");
            let shared = shared(format!("http://{address}"));
            tell.send(Arc::clone(&shared)).expect("the starter waits");
            runtime.block_on(serve(socket, address, received, shared));
        });
        let shared = told.recv().expect("the server has been made");
        let server = Self { commands: Some(commands), thread: Some(thread) };
        server.up();
        (server, shared)
    }

    /// Refuses connections, and closes those that there are.
    pub(super) fn down(&self) {
        self.command(What::Down);
    }

    /// Accepts connections, at the same port as ever.
    pub(super) fn up(&self) {
        self.command(What::Up);
    }

    fn command(&self, what: What) {
        let (done, finished) = channel::channel();
        let commands = self.commands.as_ref().expect("they are taken on drop");
        commands.send(Command { what, done }).expect("the server lives");
        finished.recv().expect("the server lives");
    }
}

/// A socket that does not listen yet: its port is taken and refuses connections.
fn bind(address: SocketAddr, runtime: &tokio::runtime::Runtime) -> TcpSocket {
    let _guard = runtime.enter();
    bound(address)
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.set_reuseaddr(true).expect("an option can be set");
    socket.bind(address).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

/// Whether connections are accepted, or the port is only kept.
enum Door {
    Open(TcpListener),
    Closed(TcpSocket),
}

async fn serve(
    socket: TcpSocket,
    address: SocketAddr,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
) {
    let mut door = Door::Closed(socket);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(Command { what, done }) = command else { return };
                door = match (door, what) {
                    (Door::Open(listener), What::Down) => {
                        // a child that another test is about to start may have the listener, too
                        shutdown(listener.as_raw_fd(), Shutdown::Both).expect("it listens");
                        drop(listener);
                        connections.shutdown().await;
                        Door::Closed(bound(address))
                    }
                    (Door::Closed(socket), What::Up) => {
                        Door::Open(socket.listen(BACKLOG).expect("the port is ours"))
                    }
                    (door, _) => door,
                };
                let _nobody_waits = done.send(());
            }
            stream = accept(&door) => {
                connections.spawn(converse(stream, Arc::clone(&shared)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn accept(door: &Door) -> TcpStream {
    match door {
        Door::Open(listener) => listener.accept().await.expect("connections can be accepted").0,
        Door::Closed(_) => pending().await,
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    // it ends in an error where the client hangs up, or where it was to be cut
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: HttpRequest<Incoming>, shared: Arc<Shared>) -> Result<Response<Sent>, CutOff> {
    let (head, _) = request.into_parts();
    let mut lifted = shared.lifted.subscribe();
    let number = shared.log(Request::new(head.method.as_str(), &head.uri, &head.headers));
    loop {
        lifted.mark_unchanged();
        match shared.decide(number, &head.uri, &head.headers) {
            Verdict::Answer { reply, truncated } => return Ok(reply.into_response(truncated)),
            Verdict::Cut => return Err(CutOff),
            Verdict::Hold => lifted.changed().await.map_err(|_| CutOff)?,
        }
    }
}
