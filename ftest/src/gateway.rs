//! A way to a unix socket over TCP on loopback, for programs that know no unix sockets.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

/// Opens a port of 127.0.0.1 that leads to a unix socket. It ends with the process of the test.
///
/// # Panics
/// If it cannot listen.
pub fn gateway(socket: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let socket = socket.clone();
            thread::spawn(move || {
                // A server that is gone is seen as a connection that ends.
                let _one_side_is_gone = UnixStream::connect(socket).and_then(|server| join(&client, &server));
            });
        }
    });
    address
}

fn join(client: &TcpStream, server: &UnixStream) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _gone = io::copy(&mut &*client, &mut &*server);
            let _gone = server.shutdown(Shutdown::Write);
        });
        let copied = io::copy(&mut &*server, &mut &*client).map(drop);
        let _gone = client.shutdown(Shutdown::Both);
        copied
    })
}
