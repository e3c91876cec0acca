//! `tollgate run --isolate`: a command in name spaces of its own, whose only way out is Tollgate. No root, Linux only.
//!
//! Name spaces are made by stages: this program again, single-threaded, before any runtime.
//!
//! 1. [`namespaces`]: the first stage leaves the caller's user, network, mount, PID, IPC, UTS and cgroup name spaces, and starts the second.
//! 2. [`network`] and [`firewall`]: the second stage ([`init`], the first process of its PID name space) builds a network that leads to
//!    listeners which it makes, and hands these to Tollgate over a [`channel`].
//! 3. [`view`], [`devices`] and [`trusted`]: what the command may see of the file system, and what it trusts. Tollgate's keys, policies and secret files, `/run`, `/tmp` and other places
//!    where programs outside listen are covered.
//! 4. [`enter`]: the third stage descends into a user name space without power over the others, filters its system calls ([`filter`]), and
//!    becomes the command.
//! 5. [`connects`]: while the command runs, every `connect` of it is made on its behalf, which is how sockets in the file system that
//!    programs outside listen on stay out of reach ([`own_sockets`] tells which are the command's).
//!
//! The command has a process group of its own ([`terminal`]), for a signal to its group reaches every process of it, in whatever PID name
//! space; the terminal's foreground is handed to and fro as a shell does it.
//!
//! When Tollgate ends, however it ends, the first process sees its socket close, and with it ends everything in the PID name space.

mod channel;
mod connects;
mod devices;
mod enter;
mod filter;
mod firewall;
mod init;
mod mounts;
mod namespaces;
mod netlink;
mod network;
mod own_sockets;
mod plan;
mod sys;
mod terminal;
mod trusted;
mod view;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;

pub use network::{Listeners, NAME_SERVER};
pub use plan::Plan;
pub use terminal::ControllingTerminal;
pub use trusted::{BUNDLE, CA, JAVA};

use plan::{Order, Told};

/// Runs a stage if that is what this process was started as. Called before anything else, while there is one thread.
#[must_use]
pub fn stage() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != STAGE {
        return None;
    }
    let name = arguments.next()?;
    Some(match name.to_str() {
        Some(NAMESPACES) => leave(),
        Some(INIT) => init::run(),
        Some(ENTER) => enter::run(arguments),
        _ => ExitCode::from(2),
    })
}

/// The first argument of a stage; no command of the program has this name.
const STAGE: &str = "isolation-stage";
const NAMESPACES: &str = "namespaces";
const INIT: &str = "init";
const ENTER: &str = "enter";

/// This program again, as a stage with nothing of our environment.
fn stage_command(name: &str, channel: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([STAGE, name]).env_clear().stdin(channel);
    command
}

/// Standard input is the channel at first, and the caller's again once the channel is taken from it.
fn take_channel() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// The first stage.
fn leave() -> ExitCode {
    let Ok(channel) = take_channel() else { return ExitCode::from(2) };
    let left = (|| {
        sys::close_inherited_on_exec()?;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        namespaces::leave_all(uid, gid).map_err(io::Error::other)?;
        let ids = [uid, gid].map(|id| id.to_string());
        stage_command(INIT, channel.try_clone()?.into()).args(ids).spawn().map(drop)
    })();
    let Err(error) = left else { return ExitCode::SUCCESS };
    fail(&channel, &error)
}

/// Nothing more happens in this stage than that Tollgate is told.
fn fail(channel: &UnixStream, error: &dyn std::fmt::Display) -> ExitCode {
    // If Tollgate has gone away there is nobody left to tell.
    drop(channel::send(channel, &Told::Failed(error.to_string()), &[]));
    ExitCode::FAILURE
}

/// Name spaces with a network and nothing in them yet.
#[derive(Debug)]
pub struct Enclosure {
    channel: UnixStream,
}

impl Enclosure {
    /// Makes the name spaces. Called while this process has one thread.
    pub fn make() -> Result<(Self, Listeners), IsolateError> {
        if rustix::process::geteuid().is_root() {
            return Err(IsolateError::Root);
        }
        let (channel, theirs) = UnixStream::pair()?;
        let mut first = stage_command(NAMESPACES, theirs.into())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .spawn()?;
        first.wait()?;
        match channel::receive(&channel) {
            Ok((Told::Ready(handed), descriptors)) => {
                let listeners = Listeners::received(handed, descriptors);
                Ok((Self { channel }, listeners.ok_or(IsolateError::Lost)?))
            }
            Ok((Told::Failed(why), _)) => Err(IsolateError::Failed(why)),
            Ok((Told::Note(_) | Told::Exited(_) | Told::Killed(_) | Told::Stopped(_), _))
            | Err(_) => Err(IsolateError::Lost),
        }
    }

    /// Starts the command. Called within the runtime.
    pub fn start(self, plan: Plan) -> Result<Isolated, IsolateError> {
        let input = io::stdin();
        channel::send(&self.channel, &Order::Run(Box::new(plan)), &[input.as_fd()])?;
        self.channel.set_nonblocking(true)?;
        let orders = self.channel.try_clone()?;
        let told = tokio::net::UnixStream::from_std(self.channel)?;
        Ok(Isolated { orders, told, read: Vec::new() })
    }
}

/// A running command. Dropped, it ends with all that it has started.
#[derive(Debug)]
pub struct Isolated {
    orders: UnixStream,
    told: tokio::net::UnixStream,
    /// The part of a message that has arrived.
    read: Vec<u8>,
}

/// What happened to the command.
#[derive(Debug)]
pub enum Happened {
    /// Something that a person should know; the command runs on.
    Note(String),
    /// It ended by itself, with this status.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
    /// It was stopped by this signal.
    Stopped(i32),
}

impl Isolated {
    /// Sends the command a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        channel::send(&self.orders, &Order::Signal(signal.as_raw()), &[])
    }

    /// Lets the stopped command run on, in the foreground of the terminal or not.
    pub fn run_on(&self, foreground: bool) -> io::Result<()> {
        channel::send(&self.orders, &Order::Continue { foreground }, &[])
    }

    /// What happens next. Cancel safe.
    pub async fn next(&mut self) -> Result<Happened, IsolateError> {
        let message = loop {
            if let Some((head, body)) = self.read.split_first_chunk() {
                let length = channel::length(*head)?;
                if let Some(body) = body.get(..length) {
                    let message = serde_json::from_slice(body).map_err(io::Error::from)?;
                    self.read.drain(..head.len() + length);
                    break message;
                }
            }
            if self.told.read_buf(&mut self.read).await? == 0 {
                return Err(IsolateError::Lost);
            }
        };
        match message {
            Told::Note(note) => Ok(Happened::Note(note)),
            Told::Exited(status) => Ok(Happened::Exited(status)),
            Told::Killed(signal) => Ok(Happened::Killed(signal)),
            Told::Stopped(signal) => Ok(Happened::Stopped(signal)),
            Told::Failed(why) => Err(IsolateError::Failed(why)),
            Told::Ready(_) => Err(IsolateError::Lost),
        }
    }
}

/// Why a command is not, or no longer, isolated. It does not run then.
#[derive(Debug, thiserror::Error)]
pub enum IsolateError {
    /// The kernel keeps root from nothing that matters here.
    #[error(
        "--isolate cannot contain root, whom files, devices and kernel settings belong to: run tollgate as another user"
    )]
    Root,
    /// A stage could not do its work.
    #[error("cannot isolate: {0}")]
    Failed(String),
    /// The stages ended without a word.
    #[error("the isolated command's first process has gone away")]
    Lost,
    /// The channel.
    #[error("cannot isolate: {0}")]
    Io(#[from] io::Error),
}
