//! Names that are never interchangeable: of secrets, stores and sandboxes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Defines a name: a checked text whose `Display`, `Debug` and serde form are the text.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal, $letter:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let letter: fn(u8) -> bool = $letter;
                let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
                if starts_well && text.len() <= $max && text.bytes().all(letter) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { what: $what, max: $max })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a secret, which is also the environment variable that holds its sealed token.
    SecretName, "a secret's name", 128, |b| b.is_ascii_alphanumeric() || b == b'_'
);
name!(
    /// The name of a secret store.
    StoreName, "a store's name", 128, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
);
name!(
    /// The id of a sandbox, such as `sb-1f2e`.
    SandboxId, "a sandbox's id", 128, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
);

/// A text that is not a name of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is 1 to {max} letters, digits or `_` (stores and sandboxes also `-` and `.`), and starts with a letter, digit or `_`"
)]
pub struct NameError {
    what: &'static str,
    max: usize,
}
