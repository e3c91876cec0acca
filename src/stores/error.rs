//! Why a value could not be fetched: who failed and what to do, never what was read.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::secret::{SecretName, SourceSpec, ValueError};

/// A secret whose value cannot be had at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret {secret} cannot be read from {source_name}: {fault}")]
pub struct SourceError {
    /// The secret's name.
    pub secret: SecretName,
    /// What went wrong.
    pub fault: Fault,
    pub(super) source_name: SourceName,
}

impl SourceError {
    /// What the operator would change.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self.fault {
            Fault::Unset => "set the variable in the environment of Tollgate and start it again",
            Fault::Unreadable(_) => {
                "check that the path exists and that Tollgate's user may read it"
            }
            Fault::NotAFile => "name a regular file, or a link to one",
            Fault::Changing => "replace the file by renaming a finished one over it",
            Fault::NotStarted(_) => {
                "check that the program is installed and executable; there is no shell, so quotes, `~` and `$` mean nothing"
            }
            Fault::Failed(_) => {
                "run the command by hand, as Tollgate's user, and read what it says"
            }
            Fault::TimedOut(_) => "see what the program waits for; it has no terminal and no input",
            Fault::Value(ValueError::Empty) => "the source must hold or print the value itself",
            Fault::Value(ValueError::TooLong) | Fault::TooMuch => {
                "the source must hold or print the value alone"
            }
            Fault::NotForHeader => {
                "a header takes one line without control characters or blanks at its ends; leave `header` out of the secret's `locations` if the value is not sent in one"
            }
            Fault::NoAnswer => "see why the source hangs",
            Fault::Offline => "ask for it through `tollgate serve` or `tollgate run`",
            Fault::Unreachable(_) => {
                "check tokenUrl; an internal address must be listed in egress.allowPrivate, and a private root in upstream.roots"
            }
            Fault::Late(_) => "see why the token endpoint is slow, or raise the source's `timeout`",
            Fault::Refused(..) => {
                "check clientId, the client's secret, scopes and grant at whoever runs the token endpoint; some want `clientAuth: body`"
            }
            Fault::NotAToken | Fault::LongAnswer => {
                "check that tokenUrl is the token endpoint itself, and not a page or another API"
            }
        }
    }
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The environment variable is not set.
    #[error("it is not set")]
    Unset,
    /// The file is missing or not ours to read.
    #[error("it cannot be read ({0})")]
    Unreadable(io::ErrorKind),
    /// A folder, a pipe, a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Written to while it was read.
    #[error("it changed while it was read")]
    Changing,
    /// The program is missing or not executable.
    #[error("it could not be started ({0})")]
    NotStarted(io::ErrorKind),
    /// The program ended with another status than 0; `None` if a signal ended it.
    #[error("{}", Status(*.0))]
    Failed(Option<i32>),
    /// The program ran for too long and was killed.
    #[error("it did not end within {0:?}")]
    TimedOut(Duration),
    /// The program printed more than a value can be.
    #[error("it printed more than 64 KiB")]
    TooMuch,
    /// Nothing, or too much.
    #[error("{0}")]
    Value(#[from] ValueError),
    /// Binary, several lines, blanks at the ends.
    #[error("the value cannot stand in a header")]
    NotForHeader,
    /// The caller's patience ended first.
    #[error("no answer yet")]
    NoAnswer,
    /// A command that opens no connections was asked for a token.
    #[error("nothing is fetched over the network here")]
    Offline,
    /// The token endpoint cannot be reached, or may not be: the reason of a denial.
    #[error("it cannot be reached ({0})")]
    Unreachable(&'static str),
    /// The token endpoint took too long.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    /// The token endpoint answered with another status than 200, and perhaps with one of the codes of RFC 6749.
    #[error("it answered {}", Refusal(*.0, *.1))]
    Refused(u16, Option<&'static str>),
    /// Not JSON, or without an access token.
    #[error("its answer is not JSON with an access_token")]
    NotAToken,
    /// More than an answer of a token endpoint can be.
    #[error("its answer is longer than 128 KiB")]
    LongAnswer,
}

/// How a program ended.
struct Status(Option<i32>);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(code) => write!(f, "it ended with status {code}"),
            None => f.write_str("a signal ended it"),
        }
    }
}

/// A status and a code.
struct Refusal(u16, Option<&'static str>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.1.map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

/// A source by kind and name: `the variable TOKEN`, `the file /run/secrets/token`, `the command op`. Arguments are left out.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SourceName(Arc<str>);

impl SourceName {
    pub(super) fn of(spec: &SourceSpec) -> Self {
        Self(match spec {
            SourceSpec::Env(name) => format!("the variable {name}").into(),
            SourceSpec::File(path) => format!("the file {}", path.display()).into(),
            SourceSpec::Command { argv, .. } => {
                format!("the command {}", argv.first().map_or("", String::as_str)).into()
            }
            SourceSpec::Token(token) => format!("the token endpoint {}", token.url).into(),
            SourceSpec::Value(_) => "its literal value".into(),
        })
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
