//! The server: accepts connections on the control socket and gives each a task of its own, so that what one
//! client does, or a panic in its answer, reaches nobody else. What is answered stands in `routes`.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::access::{Access, Asker, Role};
use super::places::{MAX_CONNECTIONS, Place, Places};
use super::routes::{self, Answer, Api};
use super::socket::ControlSocket;
use super::stall::{Manner, StallGuard};

/// How long a client may be silent before its request, or take to send the head of it.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may take nothing of its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// The most that is kept of a request's head. Ours have a few hundred bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// How long answers that are in flight may take once hsup shuts down. By then the dynos are gone, so what is
/// left is to write.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// The waits after an accept that failed, for instance for want of file descriptors.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// See [`FIRST_BACKOFF`]; a second is short enough for an operator who waits.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Answers on the socket until `shutdown` is ready. Then the socket file goes, no more connections are
/// accepted, idle ones are closed, answers in flight have some seconds to finish, and it returns. When
/// the returned future is dropped, all connections are cut.
pub async fn serve(socket: ControlSocket, api: Api, shutdown: impl Future<Output = ()>) {
    let handler = move |request| {
        let api = api.clone();
        async move { routes::answer(request, &api).await }
    };
    serve_with(socket, handler, shutdown).await;
}

/// [`serve`] with any handler.
pub(super) async fn serve_with<H, F>(socket: ControlSocket, handler: H, shutdown: impl Future<Output = ()>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let (access, places) = (Arc::new(socket.access().clone()), Places::new());
    // Nothing is ever sent: that it is dropped tells the connections to finish.
    let (open, closing) = watch::channel(());
    let mut backoff = None;
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => note_panic(ended),
            accepted = accept(socket.listener(), backoff), if connections.len() < MAX_CONNECTIONS => {
                match accepted {
                    Ok(stream) => {
                        backoff = None;
                        let asker = access.admit(&stream);
                        let Some(place) = places.take(&asker) else { continue };
                        let client = Client { stream, asker, access: Arc::clone(&access), place };
                        connections.spawn(connection(client, handler.clone(), closing.clone()));
                    }
                    Err(error) => backoff = Some(after_failure(backoff, &error)),
                }
            }
        }
    }
    drop(socket);
    drop(open);
    drain(connections).await;
}

async fn accept(listener: &UnixListener, backoff: Option<Duration>) -> io::Result<UnixStream> {
    if let Some(backoff) = backoff {
        sleep(backoff).await;
    }
    listener.accept().await.map(|(stream, _)| stream)
}

/// The next wait; the fault is told once for a row of failures.
fn after_failure(backoff: Option<Duration>, error: &io::Error) -> Duration {
    match backoff {
        None => {
            tracing::warn!(%error, "the control socket cannot accept a connection; trying again");
            FIRST_BACKOFF
        }
        Some(backoff) => (backoff * 2).min(MAX_BACKOFF),
    }
}

/// Somebody who has connected.
struct Client {
    stream: UnixStream,
    asker: Asker,
    access: Arc<Access>,
    place: Place,
}

async fn connection<H, F>(client: Client, handler: H, mut closing: watch::Receiver<()>)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let Client { stream, asker, access, place: _place } = client;
    // Who may do nothing is told so once, and is not to stay.
    let stays = asker.may(Role::Read);
    let manner = Manner::default();
    let told = manner.clone();
    let copy = stream.as_fd().try_clone_to_owned().map(net::UnixStream::from).and_then(UnixStream::from_std);
    let stream = StallGuard::new(stream, ANSWER_PATIENCE, manner.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(manner.clone());
        request.extensions_mut().insert((asker.clone(), Arc::clone(&access)));
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(stays)
        // A client such as `nc -N` closes its side once it has asked, and still wants the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let gone = async {
        match copy {
            Ok(copy) => hang_up(&copy, &told).await,
            Err(_then_it_is_noticed_when_there_is_something_to_tell) => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = gone => Ok(()),
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// Waits for a client to be gone that is to be told something by and by. Until there is something it would go unnoticed,
/// since one that only says that it will ask no more is to be answered.
async fn hang_up(stream: &UnixStream, manner: &Manner) {
    while let Ok(ready) = stream.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            // What it has asked for before it went is done.
            return manner.may_end().await;
        }
        // Until the next change.
        drop(stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into())));
    }
    std::future::pending().await
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an answer of the control API panicked");
    }
}

async fn drain(mut connections: JoinSet<()>) {
    let finish = async {
        while let Some(ended) = connections.join_next().await {
            note_panic(ended);
        }
    };
    if timeout(DRAIN_PATIENCE, finish).await.is_err() {
        tracing::warn!(open = connections.len(), "control connections are cut: they did not finish in time");
        connections.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_up_to_a_cap() {
        let error = io::Error::from_raw_os_error(24);
        let mut backoff = None;
        let waits = [(); 9].map(|()| {
            backoff = Some(after_failure(backoff, &error));
            backoff.unwrap().as_millis()
        });
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
