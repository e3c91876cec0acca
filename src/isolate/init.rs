//! The second stage, the first process of its PID name space: it builds the network, covers the file system, starts the command, and then
//! collects who ends. When it ends, so does everything in the name space.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, Signal, WaitOptions};

use super::connects::Connects;
use super::plan::{Order, Plan, Told};
use super::terminal::ControllingTerminal;
use super::{ENTER, STAGE, channel, fail, mounts, namespaces, network, take_channel, view};

/// The stage. Its arguments are the user's and group's ids outside.
pub(super) fn run() -> ExitCode {
    let Ok(channel) = take_channel() else { return ExitCode::from(2) };
    match serve(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&channel, &error),
    }
}

fn serve(channel: &UnixStream) -> io::Result<()> {
    namespaces::keep_capabilities()?;
    let listeners = network::build().map_err(|error| about("its network", &error))?;
    let (handed, descriptors) = listeners.handed();
    channel::send(channel, &Told::Ready(handed), &descriptors)?;
    drop(descriptors);
    drop(listeners);
    let (order, descriptors) = channel::receive(channel)?;
    let (Order::Run(plan), Some(input)) = (order, descriptors.into_iter().next()) else {
        return Err(io::Error::other("there is no command to run"));
    };
    rustix::stdio::dup2_stdin(&input)?;
    let view = view::cover(&plan).map_err(|error| about("its file system", &error))?;
    for note in &view.notes {
        channel::send(channel, &Told::Note(note.clone()), &[])?;
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    limit_name_spaces()?;
    let (command, listener, terminal) =
        start(&plan, &input).map_err(|error| about("the command", &error))?;
    let connects = Arc::new(Connects::new(listener, view.reachable));
    thread::Builder::new().spawn(move || connects.make_all())?;
    let orders = channel.try_clone()?;
    thread::Builder::new().spawn(move || obey(&orders, command, &terminal))?;
    collect(channel, command)
}

/// Nobody within makes another name space of control groups, in which it could mount them anew, writable: Tollgate is in the same group.
/// Nor one of mounts, in which it could take the tree apart, and then move what is hidden and pinned.
fn limit_name_spaces() -> io::Result<()> {
    const LIMITS: [&str; 2] =
        ["/proc/sys/user/max_cgroup_namespaces", "/proc/sys/user/max_mnt_namespaces"];
    LIMITS.iter().try_for_each(|limit| {
        std::fs::write(limit, "0").map_err(|error| mounts::named(limit.as_ref(), error))
    })
}

fn about(what: &str, error: &io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let advice = namespaces::advice();
        return io::Error::new(error.kind(), format!("{what}: {error}: {advice}"));
    }
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Starts the third stage, which becomes the command, and takes from it the descriptor that tells of its connects.
fn start(plan: &Plan, input: &OwnedFd) -> io::Result<(Pid, OwnedFd, ControllingTerminal)> {
    let ids = std::env::args_os().skip(3);
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args([STAGE, ENTER])
        .args(ids)
        .args(&plan.command)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&plan.directory)
        .process_group(0)
        .stdin(OwnedFd::from(theirs));
    let child = command.spawn()?;
    drop(command);
    let pid = Pid::from_child(&child);
    let (ready, descriptors): (Result<(), String>, _) = channel::receive(&ours)?;
    ready.map_err(io::Error::other)?;
    let listener = descriptors.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
    // The command inherits no disposition of ours: it is there already, and waits for its input.
    let terminal = ControllingTerminal::open();
    if plan.foreground {
        terminal.give(pid);
    }
    channel::send(&ours, &(), &[input.as_fd()])?;
    Ok((pid, listener, terminal))
}

/// Passes on the signals that Tollgate sends. Once Tollgate has gone away, everything ends.
fn obey(orders: &UnixStream, command: Pid, terminal: &ControllingTerminal) {
    // What a signal is sent to may have ended and not be collected yet.
    loop {
        match channel::receive(orders) {
            Ok((Order::Signal(number), _)) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    let _ended = rustix::process::kill_process(command, signal);
                }
            }
            Ok((Order::Continue { foreground }, _)) => {
                if foreground {
                    terminal.give(command);
                }
                let _ended = rustix::process::kill_process_group(command, Signal::CONT);
            }
            Ok((Order::Run(_), _)) | Err(_) => break,
        }
    }
    // Group 1 as `kill` has it: every process of the name space but this one.
    let _nobody = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
}

/// Collects whoever ends, orphans too, until the command does.
fn collect(channel: &UnixStream, command: Pid) -> io::Result<()> {
    loop {
        match rustix::process::wait(WaitOptions::UNTRACED) {
            Ok(Some((pid, status))) if pid == command => {
                if let Some(signal) = status.stopping_signal() {
                    channel::send(channel, &Told::Stopped(signal), &[])?;
                } else if let Some(signal) = status.terminating_signal() {
                    return channel::send(channel, &Told::Killed(signal), &[]);
                } else if let Some(status) = status.exit_status() {
                    return channel::send(channel, &Told::Exited(status), &[]);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
