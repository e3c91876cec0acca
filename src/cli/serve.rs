//! `tollgate serve`: runs the proxy until it is told to stop.

use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, Terminal};
use crate::activation::{self, Inherited};
use crate::config::{Config, ConfigArgs, ConfigError};
use crate::server::Server;
use crate::shutdown::Drained;
use crate::{process, reload};

/// Runs the proxy, and the API if it has a key.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tollgate serve --policies policies/quickstart.yaml --sandbox sb-quickstart
  tollgate serve --config /etc/tollgate/tollgate.yaml

SIGHUP reads the policy files again, as does a change of one of them. SIGTERM and SIGINT drain, then stop.
Sockets that systemd hands over are used for the addresses of `listen` that they are bound to, and it is told when all is ready.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

impl ServeArgs {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        process::not_dumpable();
        process::private_files();
        let config = self.config.load().map_err(|errors| failure(&errors))?;
        let inherited = Inherited::from_environment()?;
        super::runtime()?.block_on(serve(&config, inherited, terminal))
    }
}

/// All mistakes of a configuration as one failure.
pub(super) fn failure(errors: &[ConfigError]) -> Failure {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into()
}

async fn serve(
    config: &Config,
    inherited: Inherited,
    terminal: &mut Terminal,
) -> Result<ExitCode, Failure> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let watch = reload::watch(&config.policies);
    let server = Server::start_inheriting(config, inherited).await?;
    for address in server.explicit() {
        terminal.note(format_args!("tollgate: proxy on {address}"));
    }
    for address in server.transparent() {
        terminal.note(format_args!("tollgate: transparent proxy on {address}"));
    }
    for address in server.dns() {
        terminal.note(format_args!("tollgate: DNS on {address}"));
    }
    if let Some(address) = server.api() {
        terminal.note(format_args!("tollgate: API on {address}"));
    }
    if let Some(address) = server.metrics() {
        terminal.note(format_args!("tollgate: metrics and health on {address}"));
    }
    activation::ready();
    until_stopped(&server, watch, &mut hangup, &mut terminate, &mut interrupt).await;
    activation::stopping();
    terminal.note("tollgate: draining");
    if let Drained::Cut(tasks) = server.shut_down().await {
        terminal.note(format_args!("tollgate: {tasks} tasks were cut at the drain's deadline"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the policy files again when they change or somebody asks for it.
async fn until_stopped(
    server: &Server,
    watch: Option<reload::Watch>,
    hangup: &mut Signal,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) {
    let mut following = std::pin::pin!(reload::follow(server, watch));
    loop {
        tokio::select! {
            // The server itself says what came of it.
            _ = hangup.recv() => drop(server.reload()),
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            () = &mut following => {}
        }
    }
}
