//! Trees that nobody needs any more. It owns that none goes which anybody uses or needs; who needs which is said by others.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::cache::Cache;
use super::hold::unless_in_use;
use crate::archive::StageError;
use crate::blocking::{Stop, blocking};
use crate::explain;
use crate::model::Sha256Digest;

/// Removes the trees in a folder of slugs that no hsup uses and that are not `needed`, and what an hsup that ended in the
/// middle of that has left. What cannot be removed is said, and harms nothing but the room that it takes.
///
/// `needed` is asked for each tree while nobody can begin to use that, so that a tree which is needed from now on is used
/// already or among those that it tells. Where it cannot tell, all stay.
pub async fn remove_unneeded(
    dir: PathBuf,
    needed: impl Fn() -> Option<BTreeSet<Sha256Digest>> + Send + 'static,
) {
    let cache = Cache::new(dir);
    let removed = blocking(move |stop| remove_all(&cache, &needed, stop)).await;
    if let Err(error) = removed {
        tracing::warn!("slugs that nobody needs cannot be removed: {}", explain(&error));
    }
}

fn remove_all(
    cache: &Cache,
    needed: &dyn Fn() -> Option<BTreeSet<Sha256Digest>>,
    stop: &Stop,
) -> Result<(), StageError> {
    for digest in trees(cache)? {
        if stop.is_set() {
            return Ok(());
        }
        match remove_one(cache, digest, needed) {
            Ok(Fate::Gone) => tracing::info!("removed slug {digest}: no release needs it any more"),
            Ok(Fate::Stays) => {}
            Ok(Fate::Unknown) => return Ok(()),
            Err(error) => tracing::warn!("slug {digest} is not removed: {}", explain(&error)),
        }
    }
    Ok(())
}

/// What has become of a tree.
enum Fate {
    Gone,
    Stays,
    /// Nobody knows what is needed.
    Unknown,
}

fn remove_one(
    cache: &Cache,
    digest: Sha256Digest,
    needed: &dyn Fn() -> Option<BTreeSet<Sha256Digest>>,
) -> Result<Fate, StageError> {
    let path = cache.path(digest);
    let Some(unused) = unless_in_use(&path).map_err(StageError::of("lock", &path))? else {
        return Ok(Fate::Stays);
    };
    match needed() {
        None => Ok(Fate::Unknown),
        Some(needed) if needed.contains(&digest) => Ok(Fate::Stays),
        Some(_) => cache.remove(&path, unused).map(|()| Fate::Gone),
    }
}

/// The trees that are there; none where nothing has been unpacked so far. Nothing else in the folder is of interest but
/// what is left of dead runs, which goes.
fn trees(cache: &Cache) -> Result<Vec<Sha256Digest>, StageError> {
    let failed = |error| StageError::of("read", cache.dir())(error);
    match fs::read_dir(cache.dir()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
        Ok(_) => cache.open()?,
    }
    let entries = fs::read_dir(cache.dir()).map_err(failed)?;
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let digest = |name: &str| name.parse().ok().filter(|digest: &Sha256Digest| digest.to_string() == name);
    Ok(names.map_err(failed)?.iter().filter_map(|name| digest(name.to_str()?)).collect())
}

#[cfg(test)]
mod tests;
