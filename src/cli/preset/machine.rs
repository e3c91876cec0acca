//! The machine as the clients see it: variables, folders, and the clients' own answers.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a client may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of an answer or a file is read.
const MAX_BYTES: u64 = 1 << 20;

/// Where configuration is looked for.
#[derive(Debug)]
pub(super) struct Machine {
    /// `/`, or a folder that stands for it in tests.
    pub(super) root: PathBuf,
    /// The user's folder.
    pub(super) home: PathBuf,
    /// The working folder.
    pub(super) folder: PathBuf,
    /// The environment.
    pub(super) variables: BTreeMap<String, String>,
    /// Whether clients may be asked; not in tests.
    pub(super) ask: bool,
}

impl Machine {
    /// This machine.
    pub(super) fn this() -> Self {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let home = variables.get("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let folder = std::env::current_dir().unwrap_or_else(|_error| PathBuf::from("."));
        Self { root: PathBuf::from("/"), home, folder, variables, ask: true }
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A file's text, if it can be read.
    pub(super) fn text(path: &Path) -> Option<String> {
        let file = std::fs::File::open(path).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The files of a folder, sorted.
    pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut files: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).take(10_000).collect();
        files.sort();
        files
    }

    /// What a client prints; `None` if it is not installed, fails or takes too long.
    pub(super) fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        if !self.ask {
            return None;
        }
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let output = child.stdout.take()?;
        let (sender, receiver) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(MAX_BYTES).read_to_end(&mut bytes);
            // Nobody listens after the patience is over.
            sender.send(read.ok().map(|_length| bytes)).unwrap_or_default();
        });
        let answer = receiver.recv_timeout(PATIENCE).ok().flatten();
        if answer.is_none() {
            child.kill().unwrap_or_default();
        }
        let success = child.wait().is_ok_and(|status| status.success());
        if answer.is_some() {
            drop(reader.join());
        }
        answer.filter(|_bytes| success).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}
