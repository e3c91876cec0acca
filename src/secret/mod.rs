//! Secrets: their names, their values, where a token may stand for them.

mod finder;
mod location;
mod name;
mod needles;
mod placeholder;
mod sign;
mod source;
mod token;
mod token_source;
mod value;

pub use finder::{SealClash, TokenFinder, TokensIn};
pub use location::{HeaderRule, Inject, Locations};
pub use name::{NameError, SandboxId, SecretName, StoreName};
pub use needles::{Hide, Needles};
pub use placeholder::{Placeholder, PlaceholderError};
pub use sign::{AwsPair, HmacRule, Sign, SignatureEncoding, SignedPart, TimestampUnit};
pub use source::SourceSpec;
pub use token::{ProxyToken, SealKey, SealedToken};
pub use token_source::{ClientAuth, Grant, TokenSource, TokenUrl, TokenUrlError};
pub use value::{SecretValue, ValueError};
