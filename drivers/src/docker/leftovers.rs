//! What hsups that were killed have left with the engine: containers that carry the name of this state dir, and that of
//! an hsup that is dead. What other hsups and other people have there is not touched.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::binary::hex;
use super::container::{OWNER_LABEL, STATE_LABEL};
use super::engine::Engine;
use super::error::DockerError;
use crate::owner::{Owner, OwnerState};
use crate::running::Running;

/// The file of the state dir that holds its name.
const NAME_FILE: &str = "docker-state";
/// How often an engine that has gone is looked for.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a container may take to be removed before its dyno counts as gone without that.
pub(super) const REMOVAL: Duration = Duration::from_secs(10);
/// Enough for no two state dirs ever to have the same one.
const NAME_BYTES: usize = 12;

/// The name of a state dir: an engine may serve several hosts, on which the same path means different things.
///
/// # Errors
/// If the state dir cannot be read or written.
pub(super) fn name_of_state(state_dir: &Path) -> Result<String, DockerError> {
    let path = state_dir.join(NAME_FILE);
    let failed = |operation| {
        let path = path.clone();
        move |source| DockerError::Io { operation, path, source }
    };
    let read = || match fs::read_to_string(&path) {
        Ok(name) if name.len() == 2 * NAME_BYTES => Ok(Some(name)),
        Ok(_) => Err(io::Error::from(io::ErrorKind::InvalidData)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(name) = read().map_err(failed("read"))? {
        return Ok(name);
    }
    fs::create_dir_all(state_dir).map_err(failed("make the directory of"))?;
    let mut random = [0; NAME_BYTES];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(failed("name"))?;
    let name = hex(&random);
    // Under another name first, and never over one that is there: another hsup may be doing the same.
    let new = state_dir.join(format!("{NAME_FILE}.{}", std::process::id()));
    let written = fs::File::create(&new).and_then(|mut file| {
        file.write_all(name.as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&new, &path));
    let _not_made = fs::remove_file(&new);
    match linked {
        Ok(()) => Ok(name),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read().map_err(failed("read"))?.ok_or_else(|| failed("read")(error))
        }
        Err(error) => Err(failed("write")(error)),
    }
}

/// Removes the containers that dead hsups of this state dir have left; tells how many there were.
///
/// # Errors
/// If the engine does not list them. One that it does not remove is told of, and left to the next start.
pub(super) async fn remove(engine: &Engine, state: &str, running: &Running) -> Result<usize, DockerError> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{STATE_LABEL}={state}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let listed = engine.ask("list its containers", engine.docker().list_containers(Some(options))).await?;
    let mut removed = 0;
    for container in listed {
        let owner =
            container.labels.as_ref().and_then(|labels| labels.get(OWNER_LABEL)?.parse::<Owner>().ok());
        let is_left = owner.is_some_and(|owner| running.state_of(&owner) == OwnerState::Dead);
        let Some(id) = container.id.filter(|_| is_left) else { continue };
        match remove_container(engine, &id).await {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!("{}", crate::explain(&error)),
        }
    }
    Ok(removed)
}

/// Kills and removes a container; one that is gone, or is being removed, is as good.
///
/// # Errors
/// If it stays.
pub(super) async fn remove_container(engine: &Engine, id: &str) -> Result<(), DockerError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let what = format!("remove the container {id}");
    match engine.ask(what, engine.docker().remove_container(id, Some(options))).await {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a container in a task of its own: now, or as soon as the engine is back.
pub(super) fn remove_in_time(engine: &Arc<Engine>, id: &str) -> JoinHandle<()> {
    let (engine, id) = (Arc::clone(engine), id.to_owned());
    tokio::spawn(async move {
        while let Err(error) = remove_container(&engine, &id).await {
            if !error.is_of_the_engine() {
                return tracing::warn!("{}", crate::explain(&error));
            }
            sleep(LOOK_AGAIN).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_dir_keeps_its_name_and_no_two_have_the_same() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = name_of_state(one.path()).unwrap();
        assert_eq!(name_of_state(one.path()).unwrap(), name);
        assert_ne!(name_of_state(two.path()).unwrap(), name);
        assert_eq!(fs::read_dir(one.path()).unwrap().count(), 1);
        fs::write(one.path().join(NAME_FILE), "short").unwrap();
        assert!(name_of_state(one.path()).unwrap_err().to_string().contains(NAME_FILE));
    }
}
