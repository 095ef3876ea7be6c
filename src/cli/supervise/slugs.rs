//! The slugs of this host as hsup proper has them: where they are, and when those that nobody needs go.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::super::Config;
use super::super::driver::APP_DIR;
use crate::explain;
use crate::history::slugs_of_all;
use crate::model::Sha256Digest;
use crate::slug::{Limits, SlugUrls, Slugs, remove_unneeded};

/// Where slugs are, below the state dir.
const DIR: &str = "slugs";

pub(super) fn slugs(config: &Config, urls: Option<Arc<dyn SlugUrls>>) -> Slugs {
    Slugs::new(config.state_dir.join(DIR), Limits::default(), urls)
}

/// Removes the slugs that nobody needs whenever a release has `become_good`, which the first one after a start does too:
/// only then is it known what runs, and all that ran before it is forgotten that is to be. Several hsups may have one
/// state dir, and what any of them goes back to stays.
pub(super) async fn tidy(state_dir: PathBuf, histories: PathBuf, mut become_good: watch::Receiver<()>) {
    while become_good.changed().await.is_ok() {
        let histories = histories.clone();
        remove_unneeded(state_dir.join(DIR), move || needed(&histories, Path::new(APP_DIR))).await;
    }
}

/// The slugs that somebody needs beside those that are in use; nothing where that is not known.
fn needed(histories: &Path, app_dir: &Path) -> Option<BTreeSet<Sha256Digest>> {
    match slugs_of_all(histories) {
        Ok(mut slugs) => {
            slugs.extend(linked(app_dir));
            Some(slugs)
        }
        Err(error) => {
            tracing::warn!("slugs that no release needs stay where they are: {}", explain(&error));
            None
        }
    }
}

/// The slug that the link of the abspath driver leads to: whoever looks at `/app` finds it there, even after hsup.
fn linked(app_dir: &Path) -> Option<Sha256Digest> {
    let target = fs::read_link(app_dir).ok()?;
    target.parent()?.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_app_leads_to_is_needed_and_nothing_is_known_beside_a_damaged_history() {
        let temp = tempfile::tempdir().unwrap();
        let (histories, app) = (temp.path().join("releases"), temp.path().join("app"));
        assert_eq!(needed(&histories, &app), Some(BTreeSet::new()));
        let digest = Sha256Digest([7; 32]);
        symlink(format!("/var/lib/hsup/slugs/{digest}/app"), &app).unwrap();
        assert_eq!(needed(&histories, &app), Some(BTreeSet::from([digest])));
        fs::create_dir_all(histories.join("shop")).unwrap();
        fs::write(histories.join("shop/releases.json"), "{").unwrap();
        assert_eq!(needed(&histories, &app), None);
    }
}
