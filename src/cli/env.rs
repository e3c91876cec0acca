//! `tollgate env`: what to export in a sandbox.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{Failure, Terminal, serve};
use crate::config::ConfigArgs;
use crate::environment::{Credentials, Environment};
use crate::server::{self, offline_session};

/// Prints what to export in a sandbox: sealed tokens, the proxy, and what to trust. Asks no server: tokens are derived.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  eval \"$(tollgate env --sandbox sb-dev)\"
  docker run --env-file <(tollgate env --sandbox sb-dev --format dotenv) …")]
pub(super) struct EnvArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Leave the credentials out of the proxy's address: for clients that cannot send them, in a sandbox that its address recognises.
    #[arg(long)]
    no_credentials: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Shell)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Shell,
    Dotenv,
    Json,
}

impl EnvArgs {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        let config = self.config.load().map_err(|errors| serve::failure(&errors))?;
        let id = config.sandbox.clone().ok_or("name the sandbox with --sandbox")?;
        let session = super::runtime()?.block_on(offline_session(&config, &id))?;
        let explicit: Vec<_> =
            config.listen.explicit.iter().map(|listener| listener.address).collect();
        let mut places = server::places(&config, &explicit);
        if self.no_credentials {
            places.credentials = Credentials::Never;
        }
        let environment = Environment::of(&session, &places);
        terminal.print(&match self.format {
            Format::Shell => environment.shell(),
            Format::Dotenv => environment.dotenv(),
            Format::Json => environment.json(),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
