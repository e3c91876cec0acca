//! What a process that holds credentials does about itself: no core dumps, private files, signals passed on to a command, and its exit
//! status as shells have it.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};

use rustix::process::{DumpableBehavior, Pid, Signal};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// Keeps other processes of the user from reading our memory and environment, and the kernel from writing them to a core file.
pub fn not_dumpable() {
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user may read this one's memory");
    }
}

/// Files that do not say otherwise are readable by this user alone.
pub fn private_files() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// The signals that are passed on to a command.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    hangup: Stream,
    interrupt: Stream,
    quit: Stream,
    resized: Stream,
}

impl Signals {
    /// From here on they no longer end this process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.resized.recv() => Signal::WINCH,
        }
    }
}

/// Sends a signal to a child that has not been waited for yet. What a terminal sends, it sends to the child as well: once is enough.
pub fn pass_on(signal: Signal, child: Option<u32>) {
    let from_keyboard = matches!(signal, Signal::INT | Signal::QUIT | Signal::WINCH);
    if from_keyboard && in_foreground() {
        return;
    }
    let pid = child.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| rustix::process::kill_process(pid, signal)) {
        tracing::debug!(%error, "a signal was not passed on");
    }
}

/// The exit status of a command: its own, or that of the signal that ended it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => exited(code),
        (None, Some(signal)) => killed(signal),
        (None, None) => ExitCode::FAILURE,
    }
}

/// The exit status of a command that ended by itself.
#[must_use]
pub fn exited(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The exit status of a command that a signal ended.
#[must_use]
pub fn killed(signal: i32) -> ExitCode {
    exited(signal.saturating_add(128))
}

/// The exit status in place of a command's that could not be run: 127 if there is none of the name, 126 otherwise.
#[must_use]
pub fn not_started(error: &io::Error) -> ExitCode {
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

/// Whether this process is in the foreground of a terminal.
fn in_foreground() -> bool {
    std::fs::File::open("/dev/tty")
        .ok()
        .and_then(|terminal| rustix::termios::tcgetpgrp(&terminal).ok())
        .is_some_and(|group| group == rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(exit_code(ExitStatus::from_raw(15)), ExitCode::from(143));
        assert_eq!(not_started(&io::ErrorKind::NotFound.into()), ExitCode::from(127));
        assert_eq!(not_started(&io::ErrorKind::PermissionDenied.into()), ExitCode::from(126));
    }
}
