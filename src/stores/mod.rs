//! Where real values come from: an environment variable, a file, a program's output, a token endpoint, a literal.
//!
//! A [`LiveSecret`] fetches its value when it is first wanted, once for all who wait, keeps it fresh while it is being used, and remembers
//! retired values for as long as answers may still hold them. A value that cannot be fetched is an error and never an older value past its
//! expiry. No error, log or `Debug` output holds a value or anything that a program printed.

mod command;
mod endpoint;
mod error;
mod file;
mod live;
mod token;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::secret::{SecretValue, SourceSpec, ValueError};

pub use endpoint::{PostForm, Posting, TokenAnswer, TokenEndpoints, TokenRequest};
pub use error::{Fault, SourceError};
pub use live::LiveSecret;

use command::Command;
use error::SourceName;
use file::Stamp;

/// What fetches a value. An operator's source is one of five; tests bring their own.
trait Source: Send + Sync {
    /// Fetches the value. `since` is the stamp of the value that is held, if any.
    fn fetch(&self, since: Option<Stamp>) -> Fetching<'_>;

    /// How long a value stays good.
    fn lifetime(&self) -> Lifetime;

    /// How long a caller waits for one fetch, at most.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// What the source itself holds and no answer may show, such as a refresh token.
    fn also_held(&self) -> Vec<Arc<SecretValue>> {
        Vec::new()
    }
}

type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, Fault>> + Send + 'a>>;

/// What came of a fetch.
enum Fetched {
    /// A value, and what tells whether it has changed since.
    Value(Arc<SecretValue>, Option<Stamp>),
    /// The value that is held is still the one.
    Unchanged,
}

/// How long a value stays good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    /// As long as Tollgate runs.
    Forever,
    /// So long; it may stand in for its successor for as long again while the source fails.
    For(Duration),
    /// So long and no longer: then it has expired.
    Exactly(Duration),
}

/// How often a file that is in use is looked at.
const FILE_CHECK: Duration = Duration::from_secs(1);
/// How long a program's value is good for where no `refresh` is given.
const DEFAULT_REFRESH: Duration = Duration::from_secs(600);
/// A program is not run more often than this, whatever `refresh` says.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// The fetcher of a configured source, with its name for messages.
fn open(spec: SourceSpec, endpoints: &TokenEndpoints) -> (SourceName, Arc<dyn Source>) {
    let name = SourceName::of(&spec);
    let source: Arc<dyn Source> = match spec {
        SourceSpec::Env(variable) => {
            command::withhold(&variable);
            Arc::new(Env { variable, lookup: |name| std::env::var_os(name) })
        }
        SourceSpec::File(path) => Arc::new(file::SecretFile::new(path)),
        SourceSpec::Command { argv, refresh, timeout } => {
            let refresh = refresh.unwrap_or(DEFAULT_REFRESH).max(MIN_REFRESH);
            Arc::new(Command { argv, refresh, timeout })
        }
        SourceSpec::Token(spec) => Arc::new(token::AccessToken::new(*spec, endpoints.clone())),
        SourceSpec::Value(value) => Arc::new(Literal(value)),
    };
    (name, source)
}

/// An environment variable of Tollgate.
struct Env {
    variable: String,
    lookup: fn(&str) -> Option<std::ffi::OsString>,
}

impl Source for Env {
    fn fetch(&self, _since: Option<Stamp>) -> Fetching<'_> {
        use std::os::unix::ffi::OsStringExt;
        Box::pin(async {
            let value = (self.lookup)(&self.variable).ok_or(Fault::Unset)?;
            Ok(Fetched::Value(Arc::new(SecretValue::new(value.into_vec())?), None))
        })
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime::Forever
    }
}

/// A value written down.
struct Literal(Arc<SecretValue>);

impl Source for Literal {
    fn fetch(&self, _since: Option<Stamp>) -> Fetching<'_> {
        Box::pin(async { Ok(Fetched::Value(self.0.clone(), None)) })
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime::Forever
    }
}

/// A value as printed or saved: one newline at its end is not part of it.
fn without_newline(bytes: &[u8]) -> Result<SecretValue, ValueError> {
    let stripped = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    SecretValue::new(stripped.unwrap_or(bytes).to_vec())
}

#[cfg(test)]
mod tests;
