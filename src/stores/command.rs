//! A value that a program prints. No shell, no input, nothing kept of what it says on standard error, and an end to its whole process group.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use zeroize::Zeroizing;

use super::{Fault, Fetched, Fetching, Lifetime, Source, Stamp, without_newline};

/// The longest value with its newline.
const MAX_BYTES: usize = 65_536 + 2;

pub(super) struct Command {
    pub(super) argv: Vec<String>,
    pub(super) refresh: Duration,
    pub(super) timeout: Duration,
}

impl Source for Command {
    fn fetch(&self, _since: Option<Stamp>) -> Fetching<'_> {
        Box::pin(async {
            match tokio::time::timeout(self.timeout, run(&self.argv)).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => Err(Fault::TimedOut(self.timeout)),
            }
        })
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime::For(self.refresh)
    }

    fn patience(&self) -> Duration {
        self.timeout + Duration::from_secs(1)
    }
}

/// Dropping the future kills the program with all that it started.
async fn run(argv: &[String]) -> Result<Fetched, Fault> {
    let not_started = |error: std::io::Error| Fault::NotStarted(error.kind());
    let (program, arguments) =
        argv.split_first().ok_or(Fault::NotStarted(std::io::ErrorKind::InvalidInput))?;
    let mut command = tokio::process::Command::new(program);
    for variable in withheld() {
        command.env_remove(variable);
    }
    let child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Programs print credentials there when they fail.
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(not_started)?;
    let mut group = Group(child);
    let output = group.0.stdout.take().ok_or(Fault::NotStarted(std::io::ErrorKind::BrokenPipe))?;
    let printed = read(output).await?;
    let status = group.0.wait().await.map_err(|error| Fault::Unreadable(error.kind()))?;
    if !status.success() {
        return Err(Fault::Failed(status.code()));
    }
    Ok(Fetched::Value(Arc::new(without_newline(&printed)?), None))
}

/// Variables that hold credentials of Tollgate's own: its keys, and the values of other secrets.
static WITHHELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Keeps a variable from every program that is started from here on: each gets what it needs of the environment, and nobody else's value.
pub(super) fn withhold(variable: &str) {
    let mut withheld = WITHHELD.lock().unwrap_or_else(PoisonError::into_inner);
    withheld.insert(variable.to_owned());
}

fn withheld() -> impl Iterator<Item = OsString> {
    let named = WITHHELD.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"TOLLGATE_");
    let inherited = std::env::vars_os().map(|(name, _)| name).filter(ours);
    named.into_iter().map(OsString::from).chain(inherited)
}

async fn read(output: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // Room for everything at once: a buffer that grows leaves copies behind.
    let mut printed = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let mut output = output.take(MAX_BYTES as u64 + 1);
    while printed.len() <= MAX_BYTES {
        let read = output.read_buf(&mut *printed).await;
        if read.map_err(|error| Fault::Unreadable(error.kind()))? == 0 {
            return Ok(printed);
        }
    }
    Err(Fault::TooMuch)
}

/// A program that leads its own process group.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Once the program was waited for it has no id: the number may be somebody else's by then.
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        else {
            return;
        };
        if let Err(error) = kill_process_group(id, Signal::KILL) {
            tracing::debug!(%error, "a secret's program could not be killed");
        }
    }
}
