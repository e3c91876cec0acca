//! The filter over the command's system calls: those that would lead past the name spaces.
//!
//! - `connect` is handed to the first process ([`super::connects`]), because a name space of networks does not hold sockets in the file
//!   system. Datagram sockets of that kind, which need no `connect`, cannot be made at all.
//! - Socket families that no network name space holds (vsock, Bluetooth, …) cannot be used.
//! - `ioctl`s that type into the caller's terminal (`TIOCSTI`, `TIOCLINUX`) are refused.
//! - `io_uring`, which would make the same calls unseen, the kernel's key rings, which are the user's, and files by handle look as if the
//!   kernel lacked them.
//! - Calls of another architecture (32-bit, x32) have other numbers: they all fail.

use std::io;
use std::os::fd::OwnedFd;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

use super::sys;

/// Puts it over this thread and all that comes of it.
pub(super) fn install() -> io::Result<OwnedFd> {
    sys::filter_system_calls(&mut program()?)
}

/// Offsets in `seccomp_data`. Of an argument the low half is looked at: these are C `int`s, of which the kernel sees no more.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(nth: u32) -> u32 {
    16 + 8 * nth + if cfg!(target_endian = "big") { 4 } else { 0 }
}

#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the filter over system calls needs the number of this architecture");

/// Numbers of x32 begin here; other architectures have none there.
const X32: u32 = 0x4000_0000;

fn program() -> io::Result<Vec<sock_filter>> {
    let number = |call: libc::c_long| u32::try_from(call).map_err(io::Error::other);
    let mut steps = vec![
        load(ARCHITECTURE),
        unless(BPF_JEQ, OURS, 1, 0),
        fail(libc::ENOSYS),
        load(NUMBER),
        unless(BPF_JGE, X32, 0, 1),
        fail(libc::ENOSYS),
    ];
    for call in [
        libc::SYS_io_uring_setup,
        libc::SYS_open_by_handle_at,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
    ] {
        steps.extend([unless(BPF_JEQ, number(call)?, 0, 1), fail(libc::ENOSYS)]);
    }
    steps.extend([unless(BPF_JEQ, number(libc::SYS_connect)?, 0, 1), hand_over()]);
    steps.extend(section(number(libc::SYS_socket)?, sockets(&FAMILIES)));
    steps.extend(section(number(libc::SYS_socketpair)?, sockets(&[libc::AF_UNIX])));
    steps.extend(section(number(libc::SYS_ioctl)?, terminal()));
    steps.push(allow());
    Ok(steps)
}

/// Families that a network name space holds, and sockets in the file system.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Steps for one call only. They end in a verdict.
fn section(call: u32, steps: Vec<sock_filter>) -> Vec<sock_filter> {
    let over = u8::try_from(steps.len()).unwrap_or(u8::MAX);
    let mut section = vec![unless(BPF_JEQ, call, 0, over)];
    section.extend(steps);
    section
}

fn sockets(families: &[i32]) -> Vec<sock_filter> {
    const TYPE: u32 = 0xf;
    let mut steps = vec![load(argument(0))];
    for family in families.iter().filter(|family| **family != libc::AF_UNIX) {
        steps.extend([unless(BPF_JEQ, family.cast_unsigned(), 0, 1), allow()]);
    }
    steps.extend([
        unless(BPF_JEQ, libc::AF_UNIX.cast_unsigned(), 1, 0),
        fail(libc::EAFNOSUPPORT),
        load(argument(1)),
        step(BPF_ALU | BPF_AND | BPF_K, TYPE),
    ]);
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        steps.extend([unless(BPF_JEQ, kind.cast_unsigned(), 0, 1), allow()]);
    }
    steps.push(fail(libc::ESOCKTNOSUPPORT));
    steps
}

fn terminal() -> Vec<sock_filter> {
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    let mut steps = vec![load(argument(1))];
    for request in [TIOCSTI, TIOCLINUX] {
        steps.extend([unless(BPF_JEQ, request, 0, 1), fail(libc::EPERM)]);
    }
    steps.push(allow());
    steps
}

const fn step(code: u32, k: u32) -> sock_filter {
    #[expect(clippy::cast_possible_truncation, reason = "codes are below 256")]
    let code = code as u16;
    sock_filter { code, jt: 0, jf: 0, k }
}

const fn load(offset: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, offset)
}

/// Compares, and skips so many steps if it holds or if it does not.
const fn unless(comparison: u32, k: u32, if_so: u8, otherwise: u8) -> sock_filter {
    let step = step(BPF_JMP | comparison | BPF_K, k);
    sock_filter { jt: if_so, jf: otherwise, ..step }
}

const fn allow() -> sock_filter {
    step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW)
}

const fn hand_over() -> sock_filter {
    step(BPF_RET | BPF_K, libc::SECCOMP_RET_USER_NOTIF)
}

const fn fail(error: i32) -> sock_filter {
    step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | error.cast_unsigned())
}
