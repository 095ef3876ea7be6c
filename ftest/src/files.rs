//! A server of files over HTTP, each of which the test may change, cut short or hold back.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// How a file is served.
#[derive(Clone, Debug)]
pub enum Served {
    /// As it is.
    Whole(Vec<u8>),
    /// Announced in full, and cut off after so many bytes.
    Cut(Vec<u8>, usize),
    /// Not before something else is served in its place: the client waits for it.
    Held,
    /// Refused with this status line.
    Refused(&'static str),
}

#[derive(Debug, Default)]
struct Files {
    served: HashMap<String, Served>,
    requests: Vec<String>,
}

/// A server of files. It ends with the process of the test.
#[derive(Clone, Debug)]
pub struct FileServer {
    base: String,
    files: Arc<(Mutex<Files>, Condvar)>,
}

impl Default for FileServer {
    fn default() -> Self {
        Self::new()
    }
}

impl FileServer {
    /// A server of nothing yet.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let base = format!("http://{}", listener.local_addr().expect("it listens"));
        let server = Self { base, files: Arc::default() };
        let answering = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                thread::spawn(move || {
                    let _client_is_gone = server.answer(stream);
                });
            }
        });
        server
    }

    /// Serves a file from now on.
    pub fn serve(&self, name: &str, served: Served) {
        self.files().served.insert(name.to_owned(), served);
        self.files.1.notify_all();
    }

    /// The URL of a file.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// How often a file was asked for.
    pub fn requests(&self, name: &str) -> usize {
        self.files().requests.iter().filter(|request| *request == name).count()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let name = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let mut files = self.files();
        files.requests.push(name.clone());
        while matches!(files.served.get(&name), Some(Served::Held)) {
            files = self.files.1.wait(files).unwrap_or_else(PoisonError::into_inner);
        }
        let served = files.served.get(&name).cloned();
        drop(files);
        let (status, body, sent) = match served {
            Some(Served::Whole(body)) => {
                let bytes = body.len();
                ("200 OK", body, bytes)
            }
            Some(Served::Cut(body, bytes)) => ("200 OK", body, bytes),
            Some(Served::Refused(status)) => (status, Vec::new(), 0),
            Some(Served::Held) | None => ("404 Not Found", Vec::new(), 0),
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")?;
        stream.write_all(&body[..sent])
    }
}
