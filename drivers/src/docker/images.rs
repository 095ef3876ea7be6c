//! Images: that of a stack, which is pulled where it is missing, and those of releases, which are built, used again and
//! in the end removed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::{CreateImageInfo, ImageSummary};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
};
use futures_util::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};

use super::binary::hex;
use super::container::{IMAGE_APP_LABEL, IMAGE_CONTENT_LABEL, IMAGE_STATE_LABEL, word};
use super::context::Context;
use super::engine::Engine;
use super::error::DockerError;
use crate::{BuildSpec, Image};

/// How often the log tells how far a pull has come.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How many digits of a digest are in the tag of an image.
const TAG_DIGITS: usize = 16;

const MEBIBYTE: i64 = 1024 * 1024;

/// Sees to it that an image is there; gives its id.
///
/// # Errors
/// If it is neither there nor to be had.
pub(super) async fn ensure(engine: &Engine, image: &str) -> Result<String, DockerError> {
    match inspect(engine, image).await? {
        Some(id) => Ok(id),
        None => {
            pull(engine, image).await?;
            let refused = |message: &str| DockerError::Refused {
                what: format!("find the image {image}, which it has just pulled"),
                status: 0,
                message: message.to_owned(),
            };
            inspect(engine, image).await?.ok_or_else(|| refused("it is not there"))
        }
    }
}

/// The id of an image, if it is there.
async fn inspect(engine: &Engine, image: &str) -> Result<Option<String>, DockerError> {
    let found = engine.ask(format!("look for the image {image}"), engine.docker().inspect_image(image)).await;
    match found {
        Ok(found) => Ok(found.id),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn pull(engine: &Engine, image: &str) -> Result<(), DockerError> {
    tracing::info!("pulling the image {image}");
    let options = CreateImageOptionsBuilder::default().from_image(image).build();
    let mut news = std::pin::pin!(engine.docker().create_image(Some(options), None, None));
    let (mut progress, mut told) = (Progress::default(), Instant::now());
    while let Some(piece) = news.next().await {
        let piece = piece.map_err(|error| engine.failed(format!("pull the image {image}"), error))?;
        progress.hear(piece);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::info!("pulling the image {image}: {progress}");
        }
    }
    tracing::info!("pulled the image {image}");
    Ok(())
}

/// How far a pull has come: of each layer, the bytes that are there and all that there are.
#[derive(Default)]
struct Progress(HashMap<String, (i64, i64)>);

impl Progress {
    fn hear(&mut self, news: CreateImageInfo) {
        if let (Some(layer), Some(detail), Some("Downloading")) =
            (news.id, news.progress_detail, news.status.as_deref())
        {
            self.0.insert(layer, (detail.current.unwrap_or(0), detail.total.unwrap_or(0)));
        }
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (there, all) = self.0.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        write!(f, "{} of {} MiB", there / MEBIBYTE, all / MEBIBYTE)
    }
}

/// What the images of this hsup have in common.
#[derive(Clone, Copy)]
pub(super) struct Store<'a> {
    /// The name of the state dir: images of others are neither used nor removed.
    pub(super) state: &'a str,
    /// What the entry in them is.
    pub(super) entry_digest: &'a str,
    /// How many of an app are kept.
    pub(super) kept: usize,
}

/// Builds the image of a release, or finds the one that was built from the same things before. Of the app's images the
/// newest `kept` are left.
///
/// # Errors
/// If the slug cannot be read or the engine cannot build it.
pub(super) async fn of_release(
    engine: &Engine,
    spec: &BuildSpec,
    context: Context,
    Store { state, entry_digest, kept }: Store<'_>,
) -> Result<Image, DockerError> {
    let stack_id = ensure(engine, &context.stack_image).await?;
    let app_digest = match &spec.slug_digest {
        Some(digest) => digest.clone(),
        None => digest_of_folder(&context).await?,
    };
    let content = content_digest(&[&stack_id, entry_digest, &app_digest, &context.dockerfile()]);
    let of_app = images(engine, state, &spec.app).await?;
    let same = |image: &&ImageSummary| image.labels.get(IMAGE_CONTENT_LABEL) == Some(&content);
    let id = match of_app.iter().find(same) {
        Some(image) if kept > 0 => {
            tracing::info!("release {}: its image is there already", spec.release);
            image.id.clone()
        }
        Some(_) | None => build(engine, spec, context, state, &content).await?,
    };
    prune(engine, state, &spec.app, &id, kept.max(1)).await;
    Ok(Image { id, app: spec.app.clone(), version: spec.version.clone() })
}

async fn digest_of_folder(context: &Context) -> Result<String, DockerError> {
    let (path, context) = (context.app_dir.clone(), context.clone());
    let digest = tokio::task::spawn_blocking(move || context.app_digest()).await;
    let digest = digest.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    digest.map_err(|source| DockerError::Io { operation: "read the app in", path, source })
}

/// What an image is made of, as one name.
fn content_digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    hex(&digest.finalize())
}

/// Builds the image; the name is given by the engine when all of it is there.
async fn build(
    engine: &Engine,
    spec: &BuildSpec,
    context: Context,
    state: &str,
    content: &str,
) -> Result<String, DockerError> {
    let what = || format!("build the image of release {}", spec.release);
    // Two state dirs on one engine are to have each its own.
    let mark = content_digest(&[state, content]);
    let tag = format!("hsup/{}:{}", word(&spec.app), mark.get(..TAG_DIGITS).unwrap_or(&mark));
    let labels =
        [(IMAGE_APP_LABEL, spec.app.as_str()), (IMAGE_STATE_LABEL, state), (IMAGE_CONTENT_LABEL, content)];
    let labels: HashMap<String, String> =
        labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let options = BuildImageOptionsBuilder::default();
    let options = options.dockerfile("Dockerfile").t(&tag).rm(true).forcerm(true).labels(&labels);
    // The one command of the Dockerfile needs no network.
    let options = options.networkmode("none").build();
    let app_dir = context.app_dir.clone();
    let (mut pieces, made) = context.send();
    let pieces = stream::poll_fn(move |cx| pieces.poll_recv(cx));
    let body = bollard::body_try_stream(pieces);
    let built = follow_build(engine, engine.docker().build_image(options, None, Some(body)), what()).await;
    match made.await {
        Ok(Err(source)) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(DockerError::Io { operation: "send the engine the app in", path: app_dir, source });
        }
        Ok(Ok(()) | Err(_)) | Err(_) => built?,
    }
    let id = inspect(engine, &tag).await?;
    id.ok_or_else(|| DockerError::Refused { what: what(), status: 0, message: "it made no image".to_owned() })
}

async fn follow_build(
    engine: &Engine,
    news: impl Stream<Item = Result<bollard::models::BuildInfo, bollard::errors::Error>>,
    what: String,
) -> Result<(), DockerError> {
    let mut news = std::pin::pin!(news);
    while let Some(piece) = news.next().await {
        let piece = piece.map_err(|error| engine.failed(what.clone(), error))?;
        if let Some(line) = piece.stream.as_deref().map(str::trim).filter(|line| !line.is_empty()) {
            tracing::debug!("build: {line}");
        }
    }
    Ok(())
}

/// The images of an app's releases.
async fn images(engine: &Engine, state: &str, app: &str) -> Result<Vec<ImageSummary>, DockerError> {
    let filters = HashMap::from([(
        "label".to_owned(),
        vec![format!("{IMAGE_APP_LABEL}={app}"), format!("{IMAGE_STATE_LABEL}={state}")],
    )]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let what = format!("list the images of {app}");
    let found = engine.ask(what, engine.docker().list_images(Some(options))).await?;
    Ok(found.into_iter().filter(|image| image.labels.contains_key(IMAGE_CONTENT_LABEL)).collect())
}

/// Removes all but the newest images of an app. One that a container is made from stays: the engine refuses.
async fn prune(engine: &Engine, state: &str, app: &str, current: &str, kept: usize) {
    let mut found = match images(engine, state, app).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!("{}", crate::explain(&error)),
    };
    found.retain(|image| image.id != current);
    found.sort_by_key(|image| std::cmp::Reverse(image.created));
    for image in found.iter().skip(kept.saturating_sub(1)) {
        let what = format!("remove the image {} of {app}", image.id);
        match engine
            .ask(what, engine.docker().remove_image(&image.id, None::<RemoveImageOptions>, None))
            .await
        {
            Ok(_) => tracing::info!("removed an old image of {app}, {}", image.repo_tags.join(" ")),
            Err(error) if matches!(error.status(), Some(404 | 409)) => {}
            Err(error) => tracing::warn!("{}", crate::explain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_content_tells_its_parts_apart() {
        assert_eq!(content_digest(&["a", "bc"]), content_digest(&["a", "bc"]));
        assert_ne!(content_digest(&["a", "bc"]), content_digest(&["ab", "c"]));
    }
}
