//! A text that must not be shown. It owns the rule that secrets reach no log and no error; it hides nothing
//! from whoever asks for the text itself.

use std::fmt;

/// A text that holds a password. `Debug` does not show it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for its one use.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_keeps_it() {
        let secret = Secret::from("pa55".to_owned());
        assert_eq!((format!("{secret:?}").as_str(), secret.expose()), ("Secret", "pa55"));
    }
}
