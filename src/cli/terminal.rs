//! Where commands write: results to stdout, all else to stderr, colours only where a person looks.

use std::fmt;
use std::io::{IsTerminal, Write};

/// For whom a result is printed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// For a person.
    #[default]
    Human,
    /// For a program: one JSON document.
    Json,
}

/// The process's standard streams.
#[derive(Debug)]
pub struct Terminal {
    colours: bool,
}

impl Terminal {
    /// Colours if stdout is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && std::io::stdout().is_terminal() }
    }

    /// Whether to colour what goes to stdout.
    #[must_use]
    pub const fn colours(&self) -> bool {
        self.colours
    }

    /// Writes text to stdout as it is. A reader that has gone away (`| head`) ends the command without a complaint.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::from(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a line to stderr; there is nobody left to tell if that fails.
    pub fn note(&mut self, line: impl fmt::Display) {
        let written = writeln!(std::io::stderr().lock(), "{line}");
        drop(written);
    }

    /// Writes a failure and its causes to stderr.
    pub fn error(&mut self, failure: &Failure) {
        self.note(format_args!("tollgate: {failure}"));
    }

    /// `text` in an ANSI style such as `1;32`, where colours are wanted.
    #[must_use]
    pub fn style(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a command could not do its work, in a sentence for a person.
#[derive(Debug)]
pub struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
