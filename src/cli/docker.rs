//! The settings of the docker driver: two flags of its own, and the variables that Docker's own tools read.

use std::path::PathBuf;

use hsup_drivers::docker::{Endpoint, StackImage, StackImages, TlsFiles};

use super::settings::{Given, Reader, Setting};

const STACK_IMAGE: Setting = Setting { flag: "--stack-image", variable: "HSUP_STACK_IMAGE" };
const ENTRY: Setting = Setting { flag: "--docker-entry", variable: "HSUP_DOCKER_ENTRY" };

/// Enough to go back to one of the last releases without building it again.
const DEFAULT_KEPT_IMAGES: usize = 5;

/// Where the Docker Engine is, and what it makes dynos from.
#[derive(Clone, Debug, PartialEq)]
pub struct DockerConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The images of stacks.
    pub stack_images: StackImages,
    /// The binary that is the first process of containers; none is the one that is running.
    pub entry: Option<PathBuf>,
    /// How many images of an app are kept; none is used again where it is 0.
    pub kept_images: usize,
}

/// Reads the settings.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stack_images: Vec<String>,
    entry: Option<std::ffi::OsString>,
    directory: &std::path::Path,
) -> DockerConfig {
    let entry = reader.path(ENTRY, entry).map(|Given { value, name: _ }| directory.join(value));
    DockerConfig {
        endpoint: read_endpoint(reader).unwrap_or_default(),
        stack_images: read_stack_images(reader, stack_images),
        entry,
        kept_images: read_kept_images(reader).unwrap_or(DEFAULT_KEPT_IMAGES),
    }
}

/// As Docker's tools read them, but that `DOCKER_CERT_PATH` alone asks for TLS too, and that whom hsup talks to is
/// always verified.
fn read_endpoint(reader: &mut Reader<'_>) -> Option<Endpoint> {
    let home = || reader.variable("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let certificates = reader.variable("DOCKER_CERT_PATH").map(PathBuf::from);
    let verified = reader.variable("DOCKER_TLS_VERIFY").is_some();
    let certificates = certificates.or_else(|| verified.then(home).flatten());
    let host = reader.text_variable("DOCKER_HOST")?;
    reader.keep("DOCKER_HOST", Endpoint::parse(&host, certificates.map(TlsFiles)))
}

fn read_stack_images(reader: &mut Reader<'_>, flags: Vec<String>) -> StackImages {
    let (given, name) = if flags.is_empty() {
        let variable = reader.text_variable(STACK_IMAGE.variable).unwrap_or_default();
        (variable.split(',').map(str::trim).map(str::to_owned).collect(), STACK_IMAGE.variable)
    } else {
        (flags, STACK_IMAGE.flag)
    };
    let given: Vec<String> = given;
    let given = given.iter().filter(|text| !text.is_empty());
    let images: Vec<_> = given.map(|text| reader.keep(name, text.parse::<StackImage>())).collect();
    images.into_iter().flatten().collect()
}

fn read_kept_images(reader: &mut Reader<'_>) -> Option<usize> {
    const NAME: &str = "DOCKER_IMAGE_CACHE";
    let given = reader.text_variable(NAME)?;
    let number = given.parse().map_err(|_| {
        format!(
            "{given:?} is not a number of images: write how many of an app are kept, 0 to build each anew"
        )
    });
    reader.keep(NAME, number)
}
