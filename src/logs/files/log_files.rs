//! The log files' handle and thread. Its contract: a disk that is slow makes dynos wait that print more than it takes; one
//! that is full or broken loses lines, which is said, and stops nobody.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::writer::Writer;
use crate::logs::batch::Batch;
use crate::logs::drain::Intake;
use crate::logs::settings::{FileSettings, Overflow};

/// What may wait for the disk.
const BUFFER_BYTES: usize = 4 << 20;

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(10);

/// Writes lines to files. Ends in good order by [`LogFiles::close`].
#[derive(Debug)]
pub(in crate::logs) struct LogFiles {
    intake: Arc<Intake>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// The directory of the log files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The system does not let it be.
    #[error("failed to {operation} {}: name a directory that hsup may write to with --log-dir", path.display())]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another hsup writes there, whose dynos may have the same names.
    #[error(
        "the log files in {} are those of another hsup that is running: name another directory with --log-dir (or \
         HSUP_LOG_DIR), one for each hsup",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// What an hsup has of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs) enum Claim {
    /// All of it, and nobody else has any: it finishes what one that was killed has left.
    Directory,
    /// The files of its one-off dyno, which it may share with others of the same name, beside whoever has the directory.
    OneOff,
}

impl LogFiles {
    /// Makes the directory and starts the thread.
    ///
    /// # Errors
    /// If either cannot be, or another hsup has the directory.
    pub(in crate::logs) fn start(settings: FileSettings, claim: Claim) -> Result<Self, FilesError> {
        let path = settings.dir.clone();
        let failed = |operation| {
            let path = path.clone();
            move |source| FilesError::Failed { operation, path, source }
        };
        let mut writer = Writer::new(settings, claim)?;
        let intake = Arc::new(Intake::new(BUFFER_BYTES, Overflow::Block));
        let runtime = Builder::new_current_thread().build().map_err(failed("start a runtime for"))?;
        let (tell, ended) = oneshot::channel();
        let taken = Arc::clone(&intake);
        let work = move || {
            runtime.block_on(write(&taken, &mut writer));
            writer.close();
            let _nobody_waits = tell.send(());
        };
        thread::Builder::new()
            .name("log files".to_owned())
            .spawn(work)
            .map_err(failed("start a thread for"))?;
        Ok(Self { intake, ended: Mutex::new(Some(ended)) })
    }

    /// Gives lines. Never waits.
    pub(in crate::logs) fn give(&self, batch: &Arc<Batch>) {
        self.intake.give(batch);
    }

    /// Waits until there is room.
    pub(in crate::logs) async fn room(&self) {
        self.intake.room().await;
    }

    /// Writes what there is and ends.
    pub(in crate::logs) async fn close(&self) {
        self.intake.closing.send_replace(Some(Instant::now()));
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended
            && timeout(LAST_LINES, ended).await.is_err()
        {
            tracing::error!("the disk of the log files is too slow; the last lines are lost");
        }
    }
}

/// Writes until it is closed and nothing is left.
async fn write(intake: &Intake, writer: &mut Writer) {
    let mut closing = intake.closing.subscribe();
    loop {
        let last = closing.borrow_and_update().is_some();
        while let Some(batch) = intake.take() {
            writer.write(&batch);
        }
        if last {
            return;
        }
        tokio::select! {
            () = intake.filled.notified() => {}
            _ = closing.changed() => {}
        }
    }
}
