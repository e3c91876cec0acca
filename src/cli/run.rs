//! `tollgate run`: a sidecar around one command. The command gets sealed tokens in place of the credentials, and the way through the proxy.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::process::{Child, Command};

use super::{Failure, Terminal, serve};
use crate::audit::Denials;
use crate::config::{AuditSink, Config, ConfigArgs, Listen};
use crate::environment::Environment;
use crate::policy::{PolicySet, Severity};
use crate::secret::{SandboxId, SourceSpec};
use crate::server::{self, Server};
use crate::session::Session;
use crate::{process, reload};

/// Run a command as a sandbox: sealed tokens in its environment, and all that it sends through the proxy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tollgate run --policies policies/quickstart.yaml -- claude
  tollgate run --sandbox sb-dev -- sh -c 'curl https://api.github.com/user -H \"Authorization: Bearer $GITHUB_TOKEN\"'

The exit status is the command's, or 128 and the signal that ended it. What was denied is listed on stderr at the end. Audit lines go to
the file that the configuration or --audit names; standard output is the command's. A variable that you have set is left as it is, except
one that holds a credential: the command gets the sealed token in its place.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Contain the command in namespaces of its own (not in this version).
    #[arg(long)]
    isolate: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl RunArgs {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<ExitCode, Failure> {
        if self.isolate {
            return Err("--isolate is not in this version: nothing was started; run the command in a container or VM whose only way out is `tollgate serve`".into());
        }
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
        into_sidecar(&mut config, &id);
        let hidden = Hidden::of(&config, &set);
        super::runtime()?.block_on(run(&config, &id, &hidden, &self.command, terminal))
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
    terminal: &mut Terminal,
) -> Result<ExitCode, Failure> {
    let mut signals = process::Signals::listen()?;
    let denials = Arc::new(Denials::default());
    let watch = reload::watch(&config.policies);
    let server = Server::start_observed(config, vec![denials.clone()]).await?;
    let sandbox = server.proxy().registry.get(id.as_str());
    let session = sandbox.and_then(|sandbox| sandbox.session().ok());
    let session = session.ok_or_else(|| format!("no policy defines the sandbox `{id}`"))?;
    let ours = Environment::of(&session, &server::places(config, server.explicit()));
    let (variables, notes) = child_environment(std::env::vars_os(), &ours, &session, hidden);
    for note in notes {
        terminal.note(format_args!("tollgate: {note}"));
    }
    terminal.note(format_args!(
        "tollgate: running as sandbox {id}; without --isolate nothing is contained: a command that ignores the proxy's variables goes past it"
    ));
    let Some((program, arguments)) = command.split_first() else {
        return Ok(ExitCode::from(2));
    };
    let started = Command::new(program).args(arguments).env_clear().envs(variables).spawn();
    let status = match started {
        Err(error) => {
            terminal.note(format_args!("tollgate: {}: {error}", program.to_string_lossy()));
            not_started(&error)
        }
        Ok(child) => exit_code(wait(child, &mut signals, &server, watch).await?),
    };
    server.shut_down().await;
    summarise(&denials, terminal);
    Ok(status)
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

/// As shells do.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn not_started(error: &std::io::Error) -> ExitCode {
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// The variables that hold credentials or lead to them.
#[derive(Debug, Default)]
struct Hidden {
    /// Name of the variable, and the secret that is read from it.
    sources: Vec<(String, String)>,
}

impl Hidden {
    fn of(config: &Config, set: &PolicySet) -> Self {
        let mut hidden = Self::default();
        for secret in set.stores().flat_map(|store| &store.secrets) {
            for variable in secret.1.source.variables() {
                hidden.sources.push((variable.to_owned(), secret.0.to_string()));
            }
        }
        let proxy = config.upstream.proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref());
        for own in config.seal_key.iter().chain(proxy) {
            if let SourceSpec::Env(variable) = own {
                hidden.sources.push((variable.clone(), String::new()));
            }
        }
        hidden
    }
}

/// What the command gets: the caller's variables without any credential, then ours; and what a person should know about it.
fn child_environment(
    callers: impl IntoIterator<Item = (OsString, OsString)>,
    ours: &Environment,
    session: &Session,
    hidden: &Hidden,
) -> (BTreeMap<OsString, OsString>, Vec<String>) {
    let mut notes = Vec::new();
    let callers: BTreeMap<OsString, OsString> = callers.into_iter().collect();
    let is_secret =
        |name: &OsStr| session.secrets().iter().any(|secret| name == secret.bound.name.as_str());
    let token =
        |secret: &str| ours.iter().find(|(name, _)| *name == secret).map(|(_, token)| token);
    let mut variables = BTreeMap::new();
    for (name, value) in &callers {
        let is_source = hidden.sources.iter().any(|(variable, _)| name == variable.as_str());
        if is_source || is_secret(name) || name.as_encoded_bytes().starts_with(b"TOLLGATE_") {
            continue;
        }
        // The same credential under another name would be as good as the one that was taken away.
        let same = |(variable, _): &&(String, String)| {
            !value.is_empty() && callers.get(OsStr::new(variable)) == Some(value)
        };
        if let Some((variable, secret)) = hidden.sources.iter().find(same) {
            let shown = name.to_string_lossy().into_owned();
            notes.push(format!("{shown:?} holds the same value as {variable}: sealed too"));
            if let Some(token) = token(secret).filter(|_| is_secret(OsStr::new(secret))) {
                variables.insert(name.clone(), token.into());
            }
            continue;
        }
        variables.insert(name.clone(), value.clone());
    }
    let mut kept = Vec::new();
    for (name, value) in ours.iter() {
        let name = OsString::from(name);
        let callers_own = variables.get(&name).filter(|own| !own.is_empty() && **own != *value);
        if callers_own.is_some() {
            kept.push(name.to_string_lossy().into_owned());
        } else {
            variables.insert(name, value.into());
        }
    }
    if !kept.is_empty() {
        notes.push(format!(
            "left as you have set them, so their clients may go past the proxy or distrust it: {}",
            kept.join(" ")
        ));
    }
    (variables, notes)
}

/// What was denied, and the entries that would allow it.
fn summarise(denials: &Denials, terminal: &mut Terminal) {
    let (seen, others) = denials.seen();
    if seen.is_empty() {
        return;
    }
    terminal.note("tollgate: denied:");
    for (refused, count) in &seen {
        let port = refused.port.map_or_else(String::new, |port| format!(":{port}"));
        let host = if refused.host.is_empty() { "(no host)" } else { &refused.host };
        let host = host.escape_debug();
        terminal.note(format_args!("  {count:>5} × {host}{port}  {}", refused.reason));
    }
    if others > 0 {
        terminal.note(format_args!("  {others:>5} × others"));
    }
    let mut entries: Vec<_> = seen.iter().filter_map(|(refused, _)| refused.entry()).collect();
    entries.dedup();
    if !entries.is_empty() {
        terminal.note("tollgate: to allow what is wanted, add to a store's egressAllowlist:");
        for entry in entries {
            terminal.note(format_args!("      - {entry}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(exit_code(ExitStatus::from_raw(15)), ExitCode::from(143));
    }
}
