//! `tollgate run --isolate`: what is hidden, what is shared, and the command's life.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::cli::{Failure, Terminal};
use crate::config::{AuditSink, Config, DEFAULT_FILE};
use crate::dns::{Responder, Settings, Sinks, TcpSocket, UdpSocket, Whose};
use crate::isolate::{self, ControllingTerminal, Enclosure, Happened, Isolated, Listeners, Plan};
use crate::process::{self, Signals};
use crate::proxy::Kind;
use crate::secret::SandboxId;
use crate::server::Server;

/// Name spaces that wait for the command, and the plan for it.
pub(super) struct Isolation {
    enclosure: Enclosure,
    listeners: Listeners,
    plan: Plan,
    /// Secret files that are hidden by themselves: another in their place would show.
    alone: Vec<PathBuf>,
}

impl Isolation {
    /// Makes the name spaces, before there is a second thread. All that listens is made in there.
    pub(super) fn prepare(
        config: &mut Config,
        policies: &[PathBuf],
        secrets: &[PathBuf],
        shared: &[PathBuf],
    ) -> Result<Self, Failure> {
        let directory = std::env::current_dir()?;
        config.listen.explicit.clear();
        config.trust_seen_in = Path::new(isolate::CA).parent().map(Path::to_owned);
        let shared = shared
            .iter()
            .map(|path| match std::path::absolute(path) {
                Ok(absolute) if absolute.exists() && absolute.parent().is_some() => Ok(absolute),
                _ => Err(format!("--share {}: there is nothing to share", path.display())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let hidden = hidden(config, policies, secrets, &directory)?;
        for path in &shared {
            if let Some(inside) = hidden.iter().find(|hidden| path.starts_with(hidden)) {
                let (path, inside) = (path.display(), inside.display());
                return Err(
                    format!("--share {path}: {inside} is Tollgate's, and stays hidden").into()
                );
            }
        }
        for file in secrets {
            if let Some(link) = turnable_link(file, &hidden) {
                let (file, link) = (file.display(), link.display());
                return Err(format!("the secret file {file} is found through the link {link}, which the command could turn to another file: name the file itself").into());
            }
        }
        let (enclosure, listeners) = Enclosure::make()?;
        let plan = Plan {
            command: Vec::new(),
            environment: Vec::new(),
            directory,
            hidden,
            read_later: secrets.iter().filter_map(|file| settled(file).ok()).collect(),
            shared,
            authority: std::path::absolute(&config.ca_dir)?,
            foreground: false,
        };
        let alone = plan.read_later.iter().filter(|file| plan.hidden.contains(file));
        let alone = alone.cloned().collect();
        Ok(Self { enclosure, listeners, plan, alone })
    }

    /// Serves the command until it ends.
    pub(super) async fn run(
        mut self,
        server: &Server,
        config: &Config,
        id: &SandboxId,
        command: &[OsString],
        variables: BTreeMap<OsString, OsString>,
        signals: &mut Signals,
        terminal: &mut Terminal,
    ) -> Result<ExitCode, Failure> {
        serve(server, id, config, self.listeners)?;
        for file in &self.alone {
            let file = file.display();
            terminal.note(format_args!("tollgate: {file} lies where the command needs to look: it is hidden, and one that replaces it would not be; give it a folder of its own"));
        }
        self.plan.command = command.to_vec();
        self.plan.environment = variables.into_iter().collect();
        let without_file = config.file.is_none();
        let ended = Self::attend(self.enclosure, self.plan, signals, terminal).await;
        if without_file && Path::new(DEFAULT_FILE).exists() {
            terminal.note(format_args!("tollgate: the command has left a {DEFAULT_FILE} here, which the next run would obey: look at it first"));
        }
        ended
    }

    /// Starts the command and stays with it until it ends.
    async fn attend(
        enclosure: Enclosure,
        mut plan: Plan,
        signals: &mut Signals,
        terminal: &mut Terminal,
    ) -> Result<ExitCode, Failure> {
        let mut job = Job::new()?;
        plan.foreground = job.given;
        let mut isolated = enclosure.start(plan)?;
        loop {
            tokio::select! {
                happened = isolated.next() => match happened? {
                    Happened::Note(note) => terminal.note(format_args!("tollgate: {note}")),
                    Happened::Stopped(signal) => job.stopped(signal, &isolated)?,
                    Happened::Exited(status) => return Ok(process::exited(status)),
                    Happened::Killed(signal) => return Ok(process::killed(signal)),
                },
                _ = job.continued.recv() => job.continued(&isolated)?,
                // The command is in another process group: what comes here has not gone there.
                signal = signals.next() => isolated.signal(signal)?,
            }
        }
    }
}

/// The command and Tollgate are one job to the caller's shell, although they are two process groups.
struct Job {
    terminal: ControllingTerminal,
    /// The terminal is the command's.
    given: bool,
    /// The command is stopped, and Tollgate was too.
    stopped: bool,
    continued: Stream,
}

impl Job {
    /// The command gets the terminal at once if all that people see of it is there. In a pipeline others may want it: it gets it on demand.
    fn new() -> std::io::Result<Self> {
        let terminal = ControllingTerminal::open();
        let on_it = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let given = on_it && terminal.is_ours();
        let continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
        Ok(Self { terminal, given, stopped: false, continued })
    }

    /// The command was stopped. If it only wants the terminal it gets it, if that is ours; else the job stops.
    fn stopped(&mut self, number: i32, isolated: &Isolated) -> std::io::Result<()> {
        if !self.terminal.is_there() {
            return Ok(());
        }
        let wants_it = [Signal::TTIN, Signal::TTOU].iter().any(|wants| wants.as_raw() == number);
        if wants_it && self.terminal.is_ours() {
            self.given = true;
            return isolated.run_on(true);
        }
        self.take_back();
        self.stopped = true;
        rustix::process::kill_current_process_group(Signal::TSTP)?;
        Ok(())
    }

    /// The caller's shell lets the job run on.
    fn continued(&mut self, isolated: &Isolated) -> std::io::Result<()> {
        if !std::mem::take(&mut self.stopped) {
            return Ok(());
        }
        self.given = self.terminal.is_ours();
        isolated.run_on(self.given)
    }

    fn take_back(&mut self) {
        if std::mem::take(&mut self.given) {
            self.terminal.take_back();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Everything that comes to these listeners is the one sandbox.
fn serve(
    server: &Server,
    id: &SandboxId,
    config: &Config,
    listeners: Listeners,
) -> std::io::Result<()> {
    for listener in listeners.tcp {
        server.serve_handed_over(listener, Kind::Redirected, id)?;
    }
    let Some(sandbox) = server.proxy().registry.get(id.as_str()) else { return Ok(()) };
    let sinks = config.dns.sinks.unwrap_or(Sinks::ISOLATED);
    let settings = Settings { sinks, denied: config.dns.denied };
    let udp = listeners.dns.into_iter().map(UdpSocket::from_std);
    let tcp = listeners.dns_tcp.into_iter().map(TcpSocket::from_std);
    let (udp, tcp) = (udp.collect::<Result<_, _>>()?, tcp.collect::<Result<_, _>>()?);
    Responder::new(server.proxy(), settings, Whose::Sandbox(sandbox)).serve(udp, tcp);
    Ok(())
}

/// A path whose folders are no links; the last name of it may be one.
fn settled(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return std::fs::canonicalize(path);
    };
    Ok(std::fs::canonicalize(folder).map_or_else(|_error| path.clone(), |folder| folder.join(name)))
}

/// What is Tollgate's: its keys, policies, configuration and audit. A folder is hidden whole, so that what is put there later is hidden too.
fn hidden(
    config: &Config,
    policies: &[PathBuf],
    secrets: &[PathBuf],
    directory: &Path,
) -> Result<Vec<PathBuf>, Failure> {
    let home = std::env::home_dir().and_then(|home| std::fs::canonicalize(home).ok());
    let needed = |folder: &Path| {
        let needed = [Some(directory), home.as_deref(), Some(Path::new("/etc"))];
        let system = ["/", "/usr", "/var", "/opt", "/home", "/mnt", "/srv"].map(Path::new);
        needed.into_iter().flatten().chain(system).any(|path| path.starts_with(folder))
    };
    let mut hidden = Vec::new();
    let authority = settled(&config.ca_dir)?;
    if needed(&authority) {
        let folder = authority.display();
        return Err(format!("the authority's folder {folder} cannot be hidden, for it holds what the command needs: give it one of its own").into());
    }
    hidden.push(authority);
    // The files by themselves too: a folder of them may be needed, and links in it lead out of it.
    hidden.extend(policies.iter().filter_map(|file| settled(file).ok()));
    for path in &config.policies {
        hidden.push(settled(path)?);
    }
    hidden.retain(|path| !needed(path));
    hidden.extend(config.file.as_deref().and_then(|file| settled(file).ok()));
    if let AuditSink::File(path) = &config.audit {
        hidden.push(settled(path)?);
    }
    for file in secrets {
        // By its folder: a file that is replaced by another of its name would show.
        let found = std::fs::canonicalize(file).ok();
        for file in [settled(file).ok(), found].into_iter().flatten() {
            let folder = file.parent().filter(|folder| !needed(folder)).map(Path::to_owned);
            hidden.push(folder.unwrap_or(file));
        }
    }
    hidden.sort();
    hidden.dedup();
    Ok(hidden)
}

/// The link on the way to a file that lies in a folder which the command sees and this user may write.
fn turnable_link(file: &Path, hidden: &[PathBuf]) -> Option<PathBuf> {
    let is_turnable = |link: &&Path| {
        let Some(Ok(folder)) = link.parent().map(std::fs::canonicalize) else { return false };
        link.is_symlink()
            && !hidden.iter().any(|hidden| folder.starts_with(hidden))
            && rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).is_ok()
    };
    file.ancestors().find(is_turnable).map(Path::to_owned)
}
