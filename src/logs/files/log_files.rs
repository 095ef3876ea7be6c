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
#[error("failed to {operation} {}: name a directory that hsup may write to with --log-dir", path.display())]
pub struct FilesError {
    /// What was being done.
    pub(super) operation: &'static str,
    /// To what.
    pub(super) path: PathBuf,
    /// Why it failed.
    pub(super) source: io::Error,
}

impl LogFiles {
    /// Makes the directory and starts the thread.
    ///
    /// # Errors
    /// If either cannot be.
    pub(in crate::logs) fn start(settings: FileSettings) -> Result<Self, FilesError> {
        let path = settings.dir.clone();
        let failed = |operation| {
            let path = path.clone();
            move |source| FilesError { operation, path, source }
        };
        let mut writer = Writer::new(settings)?;
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
