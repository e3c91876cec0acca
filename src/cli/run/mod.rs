//! `tollgate run`: a sidecar around one command. The command gets sealed tokens in place of the credentials, and the way through the proxy.

mod isolated;
mod sources;
mod summary;
mod variables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::process::{Child, Command};

use super::{Failure, Terminal, serve};
use crate::audit::Denials;
use crate::config::{AuditSink, Config, ConfigArgs, Listen};
use crate::environment::{Environment, names_a_proxy};
use crate::policy::{PolicySet, Severity};
use crate::secret::SandboxId;
use crate::server::{self, Server};
use crate::{process, reload};

use isolated::Isolation;
use summary::summarise;
use variables::{Hidden, child_environment};

/// Run a command as a sandbox: sealed tokens in its environment, and all that it sends through the proxy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tollgate run --policies policies/quickstart.yaml -- claude
  tollgate run --isolate -- npm ci
  tollgate run --sandbox sb-dev -- sh -c 'curl https://api.github.com/user -H \"Authorization: Bearer $GITHUB_TOKEN\"'

The exit status is the command's, or 128 and the signal that ended it. What was denied is listed on stderr at the end. Audit lines go to
the file that the configuration or --audit names; standard output is the command's. A variable that you have set is left as it is, except
one that holds a credential: the command gets the sealed token in its place.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Contain the command in namespaces of its own, whose only way out is Tollgate. Linux, not as root.
    #[arg(long)]
    isolate: bool,
    /// With --isolate: a file, folder, socket or device that the command sees although it would be hidden, such as one in /tmp. Can be repeated.
    #[arg(long, value_name = "PATH", requires = "isolate")]
    share: Vec<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl RunArgs {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        process::not_dumpable();
        let mut config = self.config.load().map_err(|errors| serve::failure(&errors))?;
        let loaded = PolicySet::load(&config.policies);
        let Some(set) = loaded.set else {
            let mut errors = loaded.diagnostics;
            errors.retain(|found| found.severity == Severity::Error);
            terminal.note(super::check::rendered(&errors, terminal).trim_end());
            return Ok(ExitCode::FAILURE);
        };
        let id = sandbox(&config, &set)?;
        // Before the configuration becomes a sidecar's, which has no keys of operators.
        let hidden = Hidden::of(&config, &set);
        let secrets = sources::files(&config, &set);
        into_sidecar(&mut config, &id);
        let isolation = if self.isolate {
            Some(Isolation::prepare(&mut config, &loaded.files, &secrets, &self.share)?)
        } else {
            None
        };
        let run = run(&config, &id, &hidden, &self.command, isolation, terminal);
        super::runtime()?.block_on(run)
    }
}

/// The sandbox that was named, or the only one.
fn sandbox(config: &Config, set: &PolicySet) -> Result<SandboxId, Failure> {
    if let Some(id) = &config.sandbox {
        return Ok(id.clone());
    }
    let known: Vec<_> = set.sandboxes().map(|(id, _)| id).collect();
    match known.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err("the policy files define no sandbox: add one under `sandboxes`".into()),
        several => {
            let names: Vec<_> = several.iter().map(|id| id.as_str()).collect();
            Err(format!("name one of the sandboxes with --sandbox: {}", names.join(", ")).into())
        }
    }
}

/// One listener on a free port of loopback, and nothing for operators.
fn into_sidecar(config: &mut Config, id: &SandboxId) {
    config.sandbox = Some(id.clone());
    config.listen = Listen::on_loopback();
    config.api_keys.clear();
    // The command has ended by then: there is nobody left to drain for.
    config.limits.drain_timeout = config.limits.drain_timeout.min(Duration::from_secs(2));
    if config.audit == AuditSink::Stdout {
        config.audit = AuditSink::Nowhere;
    }
}

async fn run(
    config: &Config,
    id: &SandboxId,
    hidden: &Hidden,
    command: &[OsString],
    isolation: Option<Isolation>,
    terminal: &mut Terminal,
) -> Result<ExitCode, Failure> {
    let mut signals = process::Signals::listen()?;
    let denials = Arc::new(Denials::default());
    let server = Server::start_observed(config, vec![denials.clone()]).await?;
    let sandbox = server.proxy().registry.get(id.as_str());
    let session = sandbox.and_then(|sandbox| sandbox.session().ok());
    let session = session.ok_or_else(|| format!("no policy defines the sandbox `{id}`"))?;
    let ours = Environment::of(&session, &server::places(config, server.explicit()));
    let callers = std::env::vars_os();
    let callers = callers.filter(|(name, _)| isolation.is_none() || !names_a_proxy(name));
    let (variables, notes) = child_environment(callers, &ours, &session, hidden);
    for note in notes {
        terminal.note(format_args!("tollgate: {note}"));
    }
    let status = match isolation {
        Some(isolation) => {
            terminal.note(format_args!("tollgate: running as sandbox {id}, isolated"));
            isolation.run(&server, config, id, command, variables, &mut signals, terminal).await
        }
        None => {
            terminal.note(format_args!(
                "tollgate: running as sandbox {id}; without --isolate nothing is contained: a command that ignores the proxy's variables goes past it"
            ));
            let watch = reload::watch(&config.policies);
            run_beside(command, variables, &mut signals, &server, watch, terminal).await
        }
    };
    server.shut_down().await;
    summarise(&denials, session.policy().layers().last(), terminal);
    status
}

/// Runs the command as a child like any other.
async fn run_beside(
    command: &[OsString],
    variables: BTreeMap<OsString, OsString>,
    signals: &mut process::Signals,
    server: &Server,
    watch: Option<reload::Watch>,
    terminal: &mut Terminal,
) -> Result<ExitCode, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(ExitCode::from(2));
    };
    match Command::new(program).args(arguments).env_clear().envs(variables).spawn() {
        Err(error) => {
            terminal.note(format_args!("tollgate: {}: {error}", program.to_string_lossy()));
            Ok(process::not_started(&error))
        }
        Ok(child) => Ok(process::exit_code(wait(child, signals, server, watch).await?)),
    }
}

/// Waits for the command, passes signals on to it, and reads changed policies meanwhile.
async fn wait(
    mut child: Child,
    signals: &mut process::Signals,
    server: &Server,
    watch: Option<reload::Watch>,
) -> std::io::Result<ExitStatus> {
    let mut following = std::pin::pin!(reload::follow(server, watch));
    loop {
        tokio::select! {
            ended = child.wait() => return ended,
            signal = signals.next() => process::pass_on(signal, child.id()),
            () = &mut following => {}
        }
    }
}
