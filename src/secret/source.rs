//! Where a real value comes from, as configured. What fetches it is `stores`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::token_source::{Grant, TokenSource};
use super::value::SecretValue;

/// The configured source of one secret.
///
/// Two are equal if they would be fetched in the same way, so that a reload can tell what has changed.
#[derive(Clone)]
pub enum SourceSpec {
    /// An environment variable of Tollgate.
    Env(String),
    /// A file; relative ones were resolved against the policy file's folder.
    File(PathBuf),
    /// A program's standard output. There is no shell.
    Command {
        /// The program and its arguments; never empty.
        argv: Vec<String>,
        /// How long a value is good for; for as long as Tollgate runs, if not given.
        refresh: Option<Duration>,
        /// How long the program may take.
        timeout: Duration,
    },
    /// An access token, fetched from a token endpoint.
    Token(Box<TokenSource>),
    /// A value written down, for tests and demos, or set over the API.
    Value(Arc<SecretValue>),
}

impl SourceSpec {
    /// The environment variables that it reads.
    #[must_use]
    pub fn variables(&self) -> Vec<&str> {
        match self {
            Self::Env(variable) => vec![variable],
            Self::Token(token) => Self::of_token(token).flat_map(Self::variables).collect(),
            Self::File(_) | Self::Command { .. } | Self::Value(_) => Vec::new(),
        }
    }

    /// The files that it reads.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::File(path) => vec![path],
            Self::Token(token) => Self::of_token(token).flat_map(Self::files).collect(),
            Self::Env(_) | Self::Command { .. } | Self::Value(_) => Vec::new(),
        }
    }

    /// The sources of what buys an access token.
    fn of_token(token: &TokenSource) -> impl Iterator<Item = &Self> {
        let grant = match &token.grant {
            Grant::RefreshToken(source) => Some(source),
            Grant::ClientCredentials { .. } => None,
        };
        token.client_secret.iter().chain(grant)
    }
}

impl PartialEq for SourceSpec {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Env(one), Self::Env(other)) => one == other,
            (Self::File(one), Self::File(other)) => one == other,
            (
                Self::Command { argv, refresh, timeout },
                Self::Command { argv: argv2, refresh: refresh2, timeout: timeout2 },
            ) => (argv, refresh, timeout) == (argv2, refresh2, timeout2),
            (Self::Value(one), Self::Value(other)) => same_value(one, other),
            (Self::Token(one), Self::Token(other)) => one == other,
            (
                Self::Env(_)
                | Self::File(_)
                | Self::Command { .. }
                | Self::Token(_)
                | Self::Value(_),
                _,
            ) => false,
        }
    }
}

impl Eq for SourceSpec {}

impl fmt::Debug for SourceSpec {
    /// Names the source; arguments of a command are left out, for some people write credentials there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Command { argv, .. } => {
                write!(f, "command {} …", argv.first().map_or("", String::as_str))
            }
            Self::Token(token) => write!(f, "token endpoint {}", token.url),
            Self::Value(_) => f.write_str("value"),
        }
    }
}

/// In constant time for values of one length.
fn same_value(one: &Arc<SecretValue>, other: &Arc<SecretValue>) -> bool {
    Arc::ptr_eq(one, other) || subtle::ConstantTimeEq::ct_eq(one.expose(), other.expose()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> SourceSpec {
        SourceSpec::Value(Arc::new(SecretValue::new(text.into()).unwrap()))
    }

    #[test]
    fn equal_sources_are_equal_and_none_shows_a_value() {
        assert_eq!(literal("sk-live-1234567"), literal("sk-live-1234567"));
        assert!(literal("sk-live-1234567") != literal("sk-live-1234568"));
        assert_eq!(format!("{:?}", literal("sk-live-1234567")), "value");
        let command = SourceSpec::Command {
            argv: vec!["vault".into(), "--token=abc".into()],
            refresh: None,
            timeout: Duration::from_secs(1),
        };
        assert!(!format!("{command:?}").contains("abc"));
    }
}
