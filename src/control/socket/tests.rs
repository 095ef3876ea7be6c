//! Taking the path over, and leaving alone what is not ours.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net;

use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    (directory, path)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

async fn refusal(path: &Path) -> String {
    bind(path).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_free_path_is_bound_for_owner_and_group_and_left_clean() {
    let (directory, path) = place();
    let socket = bind(&path).await.unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(mode(&path), 0o770);
    assert_eq!(socket.path(), path);
    drop(socket);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file is left");
}

#[tokio::test]
async fn missing_directories_are_made() {
    let (directory, _) = place();
    let path = directory.path().join("run/hsup/app.sock");
    let _socket = bind(&path).await.unwrap();
    assert_eq!(
        (mode(&directory.path().join("run")), mode(&directory.path().join("run/hsup"))),
        (0o755, 0o755)
    );
}

#[tokio::test]
async fn a_file_where_a_directory_should_be_is_named() {
    let (directory, path) = place();
    fs::write(&path, "").unwrap();
    let error = refusal(&path.join("app.sock")).await;
    assert!(error.contains(path.to_str().unwrap()) && error.contains("-s"), "{error}");
    drop(directory);
}

#[tokio::test]
async fn a_stale_socket_is_taken_over() {
    let (_directory, path) = place();
    drop(net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = bind(&path).await.unwrap();
    net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_socket_that_never_listened_is_stale() {
    let (_directory, path) = place();
    let unfinished = UnixSocket::new_stream().unwrap();
    unfinished.bind(&path).unwrap();
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn a_live_socket_is_in_use_however_slow_its_owner() {
    let (_directory, path) = place();
    // It never accepts.
    let _live = net::UnixListener::bind(&path).unwrap();
    let expected = format!(
        "socket in use: another hsup answers at {}; stop it or choose another path with -s",
        path.display()
    );
    assert_eq!(refusal(&path).await, expected);
    net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_live_socket_whose_queue_is_full_is_in_use() {
    let (_directory, path) = place();
    let socket = UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let _live = socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = UnixStream::connect(&path).await {
        waiting.push(stream);
    }
    assert!(matches!(bind(&path).await, Err(SocketError::InUse { .. })));
}

#[tokio::test]
async fn an_empty_file_is_taken_over() {
    let (_directory, path) = place();
    fs::write(&path, "").unwrap();
    let _socket = bind(&path).await.unwrap();
    net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn anything_else_is_named_and_left_alone() {
    let (_directory, path) = place();
    let check = async |what: &str| {
        let inode = fs::symlink_metadata(&path).unwrap().ino();
        let error = refusal(&path).await;
        assert!(error.contains(what) && error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
    };
    fs::write(&path, "notes").unwrap();
    check("a file that is not empty is there").await;
    assert_eq!(fs::read(&path).unwrap(), b"notes");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    check("a directory is there").await;
    fs::remove_dir(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    check("a FIFO is there").await;
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    check("a symbolic link is there").await;
    fs::remove_file(&path).unwrap();
    let _datagram = net::UnixDatagram::bind(&path).unwrap();
    check("another program's datagram socket is there").await;
}

#[tokio::test]
async fn a_path_has_its_limit() {
    let (directory, _) = place();
    let of_length = |bytes: usize| {
        let base = directory.path().as_os_str().len() + 1;
        directory.path().join("x".repeat(bytes - base))
    };
    bind(&of_length(107)).await.unwrap();
    let error = refusal(&of_length(108)).await;
    assert!(error.contains("has 108 bytes and a socket's path at most 107"), "{error}");
    assert!(matches!(bind(&of_length(200)).await, Err(SocketError::TooLong { .. })));
}

#[tokio::test]
async fn what_names_no_file_is_no_path() {
    for bad in ["", "/", "..", "/tmp/", "\0abstract", "a\0b"] {
        assert!(matches!(bind(Path::new(bad)).await, Err(SocketError::NoFile { .. })), "{bad:?}");
    }
}

#[tokio::test]
async fn a_directory_where_nothing_can_be_made_is_named() {
    // Nobody, root included, can make a file there.
    let error = refusal(Path::new("/proc/app.sock")).await;
    assert!(error.contains("/proc/app.sock"), "{error}");
    let error = refusal(Path::new("/proc/hsup/app.sock")).await;
    assert!(error.starts_with("cannot create the directory /proc/hsup ("), "{error}");
}

#[tokio::test]
async fn a_file_that_replaced_ours_stays() {
    let (_directory, path) = place();
    let socket = bind(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let other = net::UnixListener::bind(&path).unwrap();
    drop(socket);
    net::UnixStream::connect(&path).unwrap();
    drop(other);
}

#[tokio::test]
async fn a_socket_that_is_gone_already_is_no_trouble() {
    let (_directory, path) = place();
    let socket = bind(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    drop(socket);
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn a_moved_directory_is_cleaned_where_it_is_now() {
    let (directory, _) = place();
    let (before, after) = (directory.path().join("a"), directory.path().join("b"));
    let socket = bind(&before.join("app.sock")).await.unwrap();
    fs::rename(&before, &after).unwrap();
    drop(socket);
    assert_eq!(fs::read_dir(&after).unwrap().count(), 0);
}

#[test]
fn of_many_that_race_for_a_stale_socket_exactly_one_wins() {
    for _ in 0..20 {
        let (_directory, path) = place();
        drop(net::UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(8);
        let racer = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            start.wait();
            let result = runtime.block_on(bind(&path));
            (runtime, result)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(racer)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let won = results.iter().filter(|(_, result)| result.is_ok()).count();
        assert_eq!(won, 1);
        let lost = |result: &Result<_, _>| matches!(result, Err(SocketError::InUse { .. }));
        assert_eq!(results.iter().filter(|(_, result)| lost(result)).count(), 7, "{results:?}");
        net::UnixStream::connect(&path).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_stays_locked_is_named() {
    let (directory, path) = place();
    let _held = Flock::lock(File::open(directory.path()).unwrap(), FlockArg::LockExclusive).unwrap();
    let error = refusal(&path).await;
    assert!(error.starts_with(&format!("cannot lock {}: ", directory.path().display())), "{error}");
    assert!(!path.exists());
}
