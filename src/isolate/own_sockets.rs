//! Which sockets in the file system are the command's: the kernel lists those of this network name space with the files that they are bound
//! to (`sock_diag`). Sockets of programs outside are in other lists, wherever their files lie.

use std::io;

use rustix::net::netlink::SOCK_DIAG;

use super::netlink::{Message, Netlink, attribute_of};

/// Whether a socket of this network name space is bound to the file. One whose number is longer than the kernel's list can show is not.
///
/// The caller holds the file open, and a bound socket holds its own, so that no number is used again meanwhile.
pub(super) fn bound_to(device: u64, inode: u64) -> io::Result<bool> {
    let Ok(inode) = u32::try_from(inode) else { return Ok(false) };
    let wanted = [inode.to_ne_bytes(), as_listed(device).to_ne_bytes()].concat();
    let list = Netlink::open(Some(SOCK_DIAG))?.list(&request())?;
    let file = |socket: &Vec<u8>| attribute_of(socket.get(FIXED..)?, FILE).map(<[u8]>::to_vec);
    Ok(list.iter().filter_map(file).any(|file| file == wanted))
}

/// The fixed part of an answer (`unix_diag_msg`).
const FIXED: usize = 16;
/// The attribute with inode and device of the file (`UNIX_DIAG_VFS`).
const FILE: u16 = 1;

/// A `unix_diag_req` for sockets in every state, with their files.
fn request() -> Message {
    const BY_FAMILY: u16 = 20;
    const UNIX: u8 = 1;
    const SHOW_FILE: u32 = 2;
    let mut fixed = vec![UNIX, 0, 0, 0];
    for number in [u32::MAX, 0, SHOW_FILE, u32::MAX, u32::MAX] {
        fixed.extend_from_slice(&number.to_ne_bytes());
    }
    Message::list(BY_FAMILY, &fixed)
}

/// The kernel's own spelling of a device, twelve bits and twenty.
fn as_listed(device: u64) -> u32 {
    (rustix::fs::major(device) << 20) | (rustix::fs::minor(device) & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_bound_socket_is_found_by_its_file_and_no_other_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert!(bound_to(found.dev(), found.ino()).unwrap());
        assert!(!bound_to(found.dev() + 1, found.ino()).unwrap());
        let other = std::fs::metadata(folder.path()).unwrap();
        assert!(!bound_to(other.dev(), other.ino()).unwrap());
        assert!(!bound_to(found.dev(), found.ino() | 1 << 32).unwrap());
    }
}
