//! Secrets: their names, their values, where a token may stand for them.

mod location;
mod name;
mod source;
mod token;
mod value;

pub use location::{HeaderRule, Inject, Locations};
pub use name::{NameError, SandboxId, SecretName, StoreName};
pub use source::SourceSpec;
pub use token::{ProxyToken, SealKey, SealedToken};
pub use value::{SecretValue, ValueError};
