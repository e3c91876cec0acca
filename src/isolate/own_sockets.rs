//! Which sockets in the file system are the command's: the kernel lists those of this network name space that wait for connections
//! (`sock_diag`), and tells of one that a process within holds which file it is bound to. Sockets of programs outside are in other lists,
//! wherever their files lie.
//!
//! The list itself has files by numbers that are cut short and, where a file system has several devices (btrfs, overlays), not those that
//! `stat` tells. What is compared are the files. A socket that no process holds, but for one on its way in a message, is not found.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;
use rustix::net::netlink::SOCK_DIAG;
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::netlink::{Message, Netlink, attribute_of};
use super::sys;

/// Whether a socket of this network name space that a process within holds is bound to the file.
///
/// The caller holds the file open, and a bound socket holds its own, so that no number is used again meanwhile.
pub(super) fn bound_to(file: &OwnedFd) -> io::Result<bool> {
    let bound = bound_here()?;
    if bound.is_empty() {
        return Ok(false);
    }
    let wanted = identity(file)?;
    let is_it = |socket: OwnedFd| {
        sys::file_of(socket.as_fd()).and_then(|file| identity(&file)).is_ok_and(|own| own == wanted)
    };
    Ok(processes()?.any(|process| sockets(process, &bound).any(is_it)))
}

fn identity(file: &OwnedFd) -> io::Result<(u64, u64)> {
    let status = fstat(file)?;
    Ok((status.st_dev, status.st_ino))
}

/// The numbers of this network name space's sockets that are bound to files.
fn bound_here() -> io::Result<BTreeSet<u32>> {
    let list = Netlink::open(Some(SOCK_DIAG))?.list(&request())?;
    let number = |socket: &Vec<u8>| {
        attribute_of(socket.get(FIXED..)?, FILE)?;
        socket.get(NUMBER..)?.first_chunk().copied().map(u32::from_ne_bytes)
    };
    Ok(list.iter().filter_map(number).collect())
}

/// The fixed part of an answer (`unix_diag_msg`).
const FIXED: usize = 16;
/// The place of the socket's number in it.
const NUMBER: usize = 4;
/// The attribute with inode and device of the file (`UNIX_DIAG_VFS`).
const FILE: u16 = 1;

/// A `unix_diag_req` for sockets that are, or soon may be, connected to, with their files.
fn request() -> Message {
    const BY_FAMILY: u16 = 20;
    const UNIX: u8 = 1;
    const SHOW_FILE: u32 = 2;
    const UNCONNECTED_OR_LISTENING: u32 = 1 << 7 | 1 << 10;
    let mut fixed = vec![UNIX, 0, 0, 0];
    for number in [UNCONNECTED_OR_LISTENING, 0, SHOW_FILE, u32::MAX, u32::MAX] {
        fixed.extend_from_slice(&number.to_ne_bytes());
    }
    Message::list(BY_FAMILY, &fixed)
}

/// Every process of this PID name space.
fn processes() -> io::Result<impl Iterator<Item = Pid>> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(fs::read_dir("/proc")?.flatten().filter_map(number).filter_map(Pid::from_raw))
}

/// Those of the wanted sockets that a process holds.
fn sockets(process: Pid, wanted: &BTreeSet<u32>) -> impl Iterator<Item = OwnedFd> {
    let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
    let held = fs::read_dir(folder).into_iter().flatten().flatten();
    held.filter_map(move |entry| {
        let number = number_of(&fs::read_link(entry.path()).ok()?)?;
        if !wanted.contains(&number) {
            return None;
        }
        let descriptor: ForeignRawFd = entry.file_name().to_str()?.parse().ok()?;
        let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
        let taken = pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty()).ok()?;
        // It could have become another one meanwhile, of another list.
        (fstat(&taken).ok()?.st_ino == u64::from(number)).then_some(taken)
    })
}

/// The number in `socket:[123]`.
fn number_of(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_bound_socket_is_listed_and_found_and_no_other_socket_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let bound = OwnedFd::from(UnixListener::bind(&path).unwrap());
        let client = OwnedFd::from(UnixStream::connect(&path).unwrap());
        let number = |socket: &OwnedFd| u32::try_from(fstat(socket).unwrap().st_ino).unwrap();
        let here = bound_here().unwrap();
        assert!(here.contains(&number(&bound)) && !here.contains(&number(&client)));
        let own = BTreeSet::from([number(&bound)]);
        let found: Vec<_> = sockets(rustix::process::getpid(), &own).collect();
        assert!(!found.is_empty() && found.iter().all(|socket| number(socket) == number(&bound)));
    }

    #[test]
    fn only_a_link_to_a_socket_has_a_number() {
        assert_eq!(number_of(Path::new("socket:[4026531840]")), Some(4_026_531_840));
        for other in ["pipe:[1]", "socket:[", "socket:[x]", "/socket:[1]"] {
            assert_eq!(number_of(Path::new(other)), None, "{other}");
        }
    }
}
