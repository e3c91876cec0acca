//! What Tollgate and the stages tell each other.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::network::Handed;

/// What to run, and what of the file system it may see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Files and folders that it must not see.
    pub hidden: Vec<PathBuf>,
    /// Files that Tollgate reads again while the command runs.
    pub read_later: Vec<PathBuf>,
    /// Files and folders that it sees although they lie where it gets private folders.
    pub shared: Vec<PathBuf>,
    /// The folder with the authority's public files.
    pub authority: PathBuf,
    /// Whether it is in the foreground of the terminal from the start.
    pub foreground: bool,
}

impl Plan {
    /// The value of a variable of the command.
    pub(super) fn variable(&self, wanted: &str) -> Option<&OsStr> {
        let mut variables = self.environment.iter();
        variables.find(|(name, _)| name == wanted).map(|(_, value)| value.as_os_str())
    }
}

/// From a stage to Tollgate.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// The network is there; its listeners come beside this.
    Ready(Handed),
    /// Nothing was started.
    Failed(String),
    /// A person should know.
    Note(String),
    /// The command ended by itself.
    Exited(i32),
    /// The command was ended by this signal.
    Killed(i32),
    /// The command was stopped by this signal.
    Stopped(i32),
}

/// From Tollgate to the first process of the PID name space.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Run this. Standard input comes beside it.
    Run(Box<Plan>),
    /// Send this signal to the command.
    Signal(i32),
    /// Let the stopped command run on.
    Continue {
        /// In the foreground of the terminal.
        foreground: bool,
    },
}
