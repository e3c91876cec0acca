//! The third stage: gives up what the second may do, and becomes the command.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::thread::CapabilitySet;

use super::{channel, filter, namespaces, sys, take_channel};
use crate::process;

/// The stage. Its arguments are the user's and group's ids outside, and the command.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut id = || arguments.next()?.to_str()?.parse().ok();
    let (Some(uid), Some(gid)) = (id(), id()) else { return ExitCode::from(2) };
    let Some(program) = arguments.next() else { return ExitCode::from(2) };
    let Ok(channel) = take_channel() else { return ExitCode::from(2) };
    match lower(uid, gid).and_then(|listener| hand_over(&channel, &listener)) {
        Ok(input) => become_command(&program, arguments, &input),
        Err(error) => {
            let refused: Result<(), String> = Err(error.to_string());
            drop(channel::send(&channel, &refused, &[]));
            ExitCode::FAILURE
        }
    }
}

/// No power over the name spaces above, no new privileges by `exec`, no calls that lead outside.
fn lower(uid: u32, gid: u32) -> io::Result<OwnedFd> {
    namespaces::descend(uid, gid)?;
    rustix::thread::set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    let sets =
        rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(None, sets)?;
    sys::close_inherited_on_exec()?;
    filter::install()
}

/// Gives away the descriptor that tells of connects, and gets standard input.
fn hand_over(channel: &UnixStream, listener: &OwnedFd) -> io::Result<OwnedFd> {
    let ready: Result<(), String> = Ok(());
    channel::send(channel, &ready, &[listener.as_fd()])?;
    let ((), descriptors) = channel::receive(channel)?;
    descriptors.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn become_command(
    program: &OsString,
    arguments: impl Iterator<Item = OsString>,
    input: &OwnedFd,
) -> ExitCode {
    let input: BorrowedFd<'_> = input.as_fd();
    let error = match rustix::stdio::dup2_stdin(input) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error.into(),
    };
    let shown = program.to_string_lossy();
    drop(writeln!(io::stderr(), "tollgate: {shown}: {error}"));
    process::not_started(&error)
}
