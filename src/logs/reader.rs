//! Reads what a dyno prints, from its pipes to the console.

use std::io;
use std::os::fd::OwnedFd;

use hsup_drivers::Output;
use tokio::net::unix::pipe;

use super::console::Console;
use super::lines::Lines;

/// How much is read at once. The buffer lives on the stack while bytes are there, so that a quiet dyno has none.
const READ_BYTES: usize = 16 * 1024;

/// Prints what comes out of a dyno's two pipes until both are closed.
pub async fn print_output(output: Output, console: Console, prefix: Vec<u8>) {
    tokio::join!(print(output.stdout, &console, &prefix), print(output.stderr, &console, &prefix));
}

async fn print(pipe: OwnedFd, console: &Console, prefix: &[u8]) {
    let receiver = match pipe::Receiver::from_owned_fd(pipe) {
        Ok(receiver) => receiver,
        Err(error) => {
            tracing::error!(%error, "cannot read what a dyno prints");
            return;
        }
    };
    let mut lines = Lines::default();
    let mut open = true;
    while open {
        if let Err(error) = receiver.readable().await {
            tracing::error!(%error, "cannot wait for what a dyno prints");
            return;
        }
        let mut batch = Vec::new();
        open = read(&receiver, |bytes| lines.push(bytes, |line| append(&mut batch, prefix, line)));
        if !open {
            lines.finish(|line| append(&mut batch, prefix, line));
        }
        if !batch.is_empty() {
            console.print(batch).await;
        }
    }
}

fn append(batch: &mut Vec<u8>, prefix: &[u8], line: &[u8]) {
    batch.extend_from_slice(prefix);
    batch.extend_from_slice(line);
    batch.push(b'\n');
}

/// Hands on what is in the pipe, up to a buffer's worth so that others get their turn; whether there may be more
/// to come.
fn read(pipe: &pipe::Receiver, bytes: impl FnOnce(&[u8])) -> bool {
    let mut buffer = [0; READ_BYTES];
    match pipe.try_read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            bytes(buffer.get(..length).unwrap_or_default());
            true
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => true,
        Err(error) => {
            tracing::error!(%error, "cannot read what a dyno prints");
            false
        }
    }
}
