//! Secrets: their names, their values, where a token may stand for them.

mod finder;
mod location;
mod name;
mod needles;
mod source;
mod token;
mod value;

pub use finder::{TokenFinder, TokensIn};
pub use location::{HeaderRule, Inject, Locations};
pub use name::{NameError, SandboxId, SecretName, StoreName};
pub use needles::{Hide, Needles};
pub use source::SourceSpec;
pub use token::{ProxyToken, SealKey, SealedToken};
pub use value::{SecretValue, ValueError};
