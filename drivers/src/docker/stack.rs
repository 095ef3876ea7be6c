//! The image of a stack: which one a stack's name stands for. Whether it is there is the engine's business.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The stack of a release that names none: the one that Heroku gives a new app.
const DEFAULT_STACK: &str = "heroku-24";

/// The image of one stack, as an operator sets it: `heroku-24=registry.example.com/heroku:24`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackImage {
    stack: String,
    image: String,
}

/// A text sets the image of no stack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no image of a stack: write STACK=IMAGE, as in heroku-24=registry.example.com/heroku:24")]
pub struct InvalidStackImage(String);

impl FromStr for StackImage {
    type Err = InvalidStackImage;

    fn from_str(text: &str) -> Result<Self, InvalidStackImage> {
        let usable = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
        match text.split_once('=') {
            Some((stack, image)) if usable(stack) && usable(image) => {
                Ok(Self { stack: stack.to_owned(), image: image.to_owned() })
            }
            Some(_) | None => Err(InvalidStackImage(text.to_owned())),
        }
    }
}

/// The images of stacks: those that an operator has set, and else Heroku's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackImages(BTreeMap<String, String>);

impl FromIterator<StackImage> for StackImages {
    /// Of two for the same stack the later one counts.
    fn from_iter<I: IntoIterator<Item = StackImage>>(images: I) -> Self {
        Self(images.into_iter().map(|StackImage { stack, image }| (stack, image)).collect())
    }
}

impl StackImages {
    /// The image of a stack, which always has a tag or a digest: without one the engine would pull all there are.
    /// `cedar-14` is `heroku/cedar:14`, and so for every name with a number behind it; another name is an image's.
    pub(super) fn of(&self, stack: Option<&str>) -> String {
        let stack = stack.unwrap_or(DEFAULT_STACK);
        let image = match self.0.get(stack) {
            Some(image) => image.clone(),
            None => match stack.rsplit_once('-') {
                Some((name, version))
                    if !version.is_empty() && version.chars().all(|digit| digit.is_ascii_digit()) =>
                {
                    format!("heroku/{name}:{version}")
                }
                Some(_) | None => stack.to_owned(),
            },
        };
        let name = image.rsplit('/').next().unwrap_or_default();
        if name.contains([':', '@']) { image } else { format!("{image}:latest") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_herokus_images_unless_an_operator_says_otherwise() {
        let images: StackImages = ["heroku-22=localhost:5000/own", "odd=odd@sha256:00"]
            .map(|text| text.parse().unwrap())
            .into_iter()
            .collect();
        for (stack, image) in [
            (Some("heroku-24"), "heroku/heroku:24"),
            (Some("cedar-14"), "heroku/cedar:14"),
            (None, "heroku/heroku:24"),
            (Some("heroku-22"), "localhost:5000/own:latest"),
            (Some("odd"), "odd@sha256:00"),
            (Some("debian"), "debian:latest"),
            (Some("my-stack"), "my-stack:latest"),
        ] {
            assert_eq!(images.of(stack), image, "{stack:?}");
        }
        for text in ["", "a", "=b", "a=", "a= b"] {
            assert!(text.parse::<StackImage>().is_err(), "{text}");
        }
    }
}
