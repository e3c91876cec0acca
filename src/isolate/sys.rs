//! The system calls that no safe wrapper offers: leaving name spaces, marking descriptors, a socket's file, and seccomp with a listener.
//!
//! This is the only file with unsafe code. Each function is one system call on memory that it owns or borrows, in a process that the
//! caller promises to be single-threaded where that matters.

#![expect(
    unsafe_code,
    reason = "unshare, close_range, signal, seccomp and its ioctls have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::thread::UnshareFlags;

/// Leaves name spaces for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the table of descriptors stays shared, which is what the caller of the unsafe function has to care for.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Descriptors beyond the standard three are closed by the next `exec`, whoever opened them.
pub(super) fn close_inherited_on_exec() -> io::Result<()> {
    // SAFETY: takes three numbers; no descriptor is closed here.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A process in the background may write to its terminal, and change who is in the foreground, without being stopped.
pub(super) fn ignore_background_writes() {
    // SAFETY: sets one disposition, to a handler that the kernel itself has.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

/// Puts a filter over this thread's system calls and all that it starts. The descriptor tells of the calls that the filter hands over.
pub(super) fn filter_system_calls(program: &mut [libc::sock_filter]) -> io::Result<OwnedFd> {
    let killable = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    match install(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | killable) {
        // Kernels before 5.19: a signal may repeat the call.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            install(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
        }
        installed => installed,
    }
}

fn install(program: &mut [libc::sock_filter], flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the `len` instructions that `program` points at.
    let listener = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let listener = i32::try_from(listener).map_err(io::Error::other)?;
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// A system call that was handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// The kernel's number for it.
    pub(super) id: u64,
    /// The thread that made it, as this PID name space counts.
    pub(super) thread: u32,
    /// Its arguments.
    pub(super) arguments: [u64; 6],
}

/// Waits for the next call. `Ok(None)`: it was withdrawn.
pub(super) fn next_call(listener: BorrowedFd<'_>) -> io::Result<Option<Call>> {
    // SAFETY: a structure of integers, which the kernel wants to find zeroed.
    let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    let done =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut told) };
    if done == 0 {
        let arguments = told.data.args;
        return Ok(Some(Call { id: told.id, thread: told.pid, arguments }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

/// Whether the caller is still there and waits, so that what was read of it was read of it.
pub(super) fn still_waits(listener: BorrowedFd<'_>, call: &Call) -> bool {
    // SAFETY: the kernel reads one number.
    let done = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const call.id)
    };
    done == 0
}

/// Ends a call with success, or with an error's number.
pub(super) fn answer(listener: BorrowedFd<'_>, call: &Call, result: Result<(), i32>) {
    let error = result.map_or_else(|number| -number, |()| 0);
    let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags: 0 };
    // SAFETY: the kernel reads one such structure. It fails only where the caller has gone away.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

/// The file that a socket is bound to. Takes power over the socket's network name space.
pub(super) fn file_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCUNIXFILE: libc::Ioctl = 0x89e0;
    // SAFETY: takes no memory.
    let file = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Connects a socket to an address as a program wrote it.
pub(super) fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), i32> {
    let len = libc::socklen_t::try_from(address.len()).map_err(|_error| libc::EINVAL)?;
    // SAFETY: the kernel reads `len` bytes, of any alignment.
    let done = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), len) };
    if done == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
