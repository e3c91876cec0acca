//! `tollgate schema`: JSON Schemas of what people write, and of what machines read.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::check::pretty;
use super::{Failure, Terminal};
use crate::{audit, config, policy};

/// Print the JSON Schema of a file format, for editors and other checkers.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tollgate schema policy > policy.schema.json\n  # and in a policy file:  # yaml-language-server: $schema=../policy.schema.json"
)]
pub(super) struct Schema {
    /// Which format.
    #[arg(value_enum)]
    of: Of,
}

/// The formats that have a schema.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// Policy files.
    Policy,
    /// `tollgate.yaml`, the server's configuration.
    Config,
    /// One line of the audit.
    Audit,
}

impl Schema {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let schema = match self.of {
            Of::Policy => policy::policy_schema(),
            Of::Config => config::schema(),
            Of::Audit => audit::schema(),
        };
        terminal.print(&pretty(&schema)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
