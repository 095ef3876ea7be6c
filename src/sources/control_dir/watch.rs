//! The inotify watch of a control dir: it rings a bell whenever `new` may have changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Rung by the watch, heard by the loop. Many rings before one is heard are one.
#[derive(Default)]
pub(super) struct Bell {
    rung: Notify,
    closed: AtomicBool,
    /// Whether the directory was removed or moved away, and the watch with it. A new one may have its inode.
    lost: AtomicBool,
}

impl Bell {
    /// Waits for a ring; one since the last wait counts.
    pub(super) async fn heard(&self) {
        self.rung.notified().await;
    }

    /// Whether a writer was seen to be done with `new` since this was last asked.
    pub(super) fn take_closed(&self) -> bool {
        self.closed.swap(false, Ordering::AcqRel)
    }

    fn ring(&self, closed: bool) {
        if closed {
            self.closed.store(true, Ordering::Release);
        }
        self.rung.notify_one();
    }
}

/// Watches one directory, also when it goes and comes back.
pub(super) struct DirWatch {
    dir: PathBuf,
    bell: Arc<Bell>,
    watcher: Option<RecommendedWatcher>,
    /// Which directory is being watched.
    watched: Option<(u64, u64)>,
    complained: bool,
}

impl DirWatch {
    /// A watch that is not set yet.
    pub(super) fn new(dir: &Path, bell: Arc<Bell>) -> Self {
        let (own, ringing) = (dir.to_owned(), Arc::clone(&bell));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => hear(&event, &own, &ringing),
            // an event may be lost: look
            Err(_) => ringing.ring(false),
        });
        let mut watch = Self { dir: dir.to_owned(), bell, watcher: None, watched: None, complained: false };
        match watcher {
            Ok(watcher) => watch.watcher = Some(watcher),
            Err(error) => watch.complain(&error),
        }
        watch
    }

    /// Sets the watch where the path leads now. If it cannot be set, polling goes on.
    pub(super) fn ensure(&mut self) {
        let now = fs::metadata(&self.dir).ok().map(|dir| (dir.dev(), dir.ino()));
        let Some(watcher) = &mut self.watcher else { return };
        let lost = self.bell.lost.swap(false, Ordering::AcqRel);
        if !lost && now == self.watched && now.is_some() {
            return;
        }
        if self.watched.take().is_some() {
            // fails where the directory is gone, and its watch with it
            let _ = watcher.unwatch(&self.dir);
        }
        if now.is_none() {
            return;
        }
        match watcher.watch(&self.dir, RecursiveMode::NonRecursive) {
            Ok(()) => self.watched = now,
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(
                "control dir {} cannot be watched, so releases are noticed at the next poll only: {error}; \
                 raise fs.inotify.max_user_instances or max_user_watches with sysctl",
                self.dir.display()
            );
        }
    }
}

fn hear(event: &Event, dir: &Path, bell: &Bell) {
    let closed = matches!(
        event.kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To))
    );
    // our own removing and renaming away of `new` leaves nothing to read
    let idle = !closed
        && matches!(
            event.kind,
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_)
        );
    let about_new = event.paths.iter().any(|path| path.file_name().is_some_and(|name| name == "new"));
    let dir_itself =
        !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| path == dir);
    if dir_itself && matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
        bell.lost.store(true, Ordering::Release);
    }
    if event.need_rescan() || dir_itself || (about_new && !idle) {
        bell.ring(closed && about_new);
    }
}
