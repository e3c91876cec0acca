//! Every `connect` of the command is made here, on its behalf.
//!
//! A socket in the file system is reached through any network name space, so whoever listens on one outside (a container engine, an agent,
//! a session bus) would be a way out. What a caller passes is read once, and what was read is what is connected to: the caller cannot
//! change it in between. A socket in the file system is connected only if the command made it, or the operator shares it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fcntl_getfl, fstat, open, openat2,
    statx,
};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::process::{
    ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, RawPid, pidfd_getfd, pidfd_open,
};

use super::own_sockets;
use super::sys::{self, Call};

/// Where sockets in the file system may be connected to.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    /// File systems that nobody outside sees.
    pub(super) devices: Vec<u64>,
    /// Mounts that the operator shares.
    pub(super) mounts: Vec<u64>,
}

/// What makes the connections.
#[derive(Debug)]
pub(super) struct Connects {
    listener: OwnedFd,
    reachable: Reachable,
    waiting: AtomicUsize,
}

/// So many calls may wait for their peers at the same time.
const MOST_WAITING: usize = 512;

impl Connects {
    pub(super) const fn new(listener: OwnedFd, reachable: Reachable) -> Self {
        Self { listener, reachable, waiting: AtomicUsize::new(0) }
    }

    /// Serves until nobody is left who could call.
    pub(super) fn make_all(self: &Arc<Self>) {
        loop {
            match sys::next_call(self.listener.as_fd()) {
                Ok(Some(call)) => self.make(call),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    fn make(self: &Arc<Self>, call: Call) {
        let prepared = match Prepared::of(&call, self.listener.as_fd(), &self.reachable) {
            Ok(prepared) => prepared,
            Err(errno) => return self.answer(&call, Err(errno.raw_os_error())),
        };
        if !prepared.may_wait() {
            return self.answer(&call, prepared.connect());
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return self.answer(&call, Err(libc::EAGAIN));
        }
        let connects = self.clone();
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            connects.answer(&call, prepared.connect());
            connects.waiting.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.answer(&call, Err(libc::EAGAIN));
        }
    }

    fn answer(&self, call: &Call, result: Result<(), i32>) {
        sys::answer(self.listener.as_fd(), call, result);
    }
}

const STACK: usize = 64 << 10;

/// The caller's socket, and an address that nobody can change any more.
struct Prepared {
    socket: OwnedFd,
    address: Vec<u8>,
    /// Keeps the socket in the file system that the address names by our descriptor.
    _found: Option<OwnedFd>,
}

/// The longest address that the kernel takes.
const LONGEST: usize = 128;

impl Prepared {
    fn of(call: &Call, listener: BorrowedFd<'_>, reachable: &Reachable) -> Result<Self, Errno> {
        let [socket, at, length, ..] = call.arguments;
        let caller = Caller::of(call.thread)?;
        // The kernel takes both as C `int`s.
        let length = usize::try_from(length & 0xffff_ffff).map_err(|_error| Errno::INVAL)?;
        if length > LONGEST {
            return Err(Errno::INVAL);
        }
        let address = caller.memory(at, length)?;
        let number = u32::try_from(socket & 0xffff_ffff).map_err(|_error| Errno::BADF)?;
        let socket = caller.descriptor(number.cast_signed())?;
        // The thread's number could have gone to another one meanwhile.
        if !sys::still_waits(listener, call) {
            return Err(Errno::INTR);
        }
        if rustix::net::sockopt::socket_domain(&socket)? != AddressFamily::UNIX {
            return Ok(Self { socket, address, _found: None });
        }
        let Some(path) = path_of(&address)? else {
            // Abstract names are those of the network name space.
            return Ok(Self { socket, address, _found: None });
        };
        let found = caller.find(&path)?;
        reachable.holds(&found)?;
        let address = address_of(&found);
        Ok(Self { socket, address, _found: Some(found) })
    }

    fn may_wait(&self) -> bool {
        !fcntl_getfl(&self.socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
    }

    fn connect(&self) -> Result<(), i32> {
        sys::connect(self.socket.as_fd(), &self.address)
    }
}

/// The thread that called.
struct Caller {
    thread: u32,
    handle: OwnedFd,
}

impl Caller {
    fn of(thread: u32) -> Result<Self, Errno> {
        // Linux 6.9 has handles for threads, whose descriptors need not be those of the process.
        const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
        let pid =
            |number: u32| RawPid::try_from(number).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        let handle = pidfd_open(pid(thread)?, THREAD).or_else(|_error| {
            let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
            let status = status.map_err(|_error| Errno::SRCH)?;
            let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
            let process = process.and_then(|number| number.trim().parse().ok());
            pidfd_open(pid(process.ok_or(Errno::SRCH)?)?, PidfdFlags::empty())
        })?;
        Ok(Self { thread, handle })
    }

    /// Reads it in the one thread that receives calls. A page of a FUSE file would hold that up, and every other connect, for as long as its
    /// server likes: nobody within can mount one, for want of a mount name space of their own.
    fn memory(&self, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let memory =
            File::open(format!("/proc/{}/mem", self.thread)).map_err(|error| errno(&error))?;
        let mut bytes = vec![0; length];
        memory.read_exact_at(&mut bytes, at).map_err(|_error| Errno::FAULT)?;
        Ok(bytes)
    }

    fn descriptor(&self, number: ForeignRawFd) -> Result<OwnedFd, Errno> {
        pidfd_getfd(&self.handle, number, PidfdGetfdFlags::empty())
    }

    /// What a path of the caller names. Its own links through `/proc` are not followed: here they would be ours.
    fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let of_process =
            |name: &str| open(format!("/proc/{}/{name}", self.thread), FOLDER, Mode::empty());
        let (start, resolve) = if path.is_absolute() {
            (of_process("root")?, ResolveFlags::IN_ROOT)
        } else {
            (of_process("cwd")?, ResolveFlags::empty())
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(start, path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS)
    }
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Reachable {
    fn holds(&self, found: &OwnedFd) -> Result<(), Errno> {
        let status = fstat(found)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
            return Err(Errno::CONNREFUSED);
        }
        if self.devices.contains(&status.st_dev) || self.mounts.contains(&mount_of(found)?) {
            return Ok(());
        }
        let own = own_sockets::bound_to(found);
        if own.map_err(|error| errno(&error))? { Ok(()) } else { Err(Errno::ACCESS) }
    }
}

/// The number of the mount through which something was found.
pub(super) fn mount_of(found: &OwnedFd) -> Result<u64, Errno> {
    Ok(statx(found, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// The path in an address of a socket in the file system; `None` for an abstract name.
fn path_of(address: &[u8]) -> Result<Option<PathBuf>, Errno> {
    use std::os::unix::ffi::OsStringExt as _;
    let Some((family, name)) = address.split_first_chunk() else { return Err(Errno::INVAL) };
    if u16::from_ne_bytes(*family) != AddressFamily::UNIX.as_raw() {
        return Err(Errno::INVAL);
    }
    match name.first() {
        None => Err(Errno::INVAL),
        Some(0) => Ok(None),
        Some(_) => {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            let path = name.get(..end).unwrap_or_default().to_vec();
            Ok(Some(std::ffi::OsString::from_vec(path).into()))
        }
    }
}

/// The address of what a descriptor of this process holds.
fn address_of(found: &OwnedFd) -> Vec<u8> {
    use std::os::fd::AsRawFd as _;
    let mut address = AddressFamily::UNIX.as_raw().to_ne_bytes().to_vec();
    address.extend_from_slice(format!("/proc/self/fd/{}\0", found.as_raw_fd()).as_bytes());
    address
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_an_abstract_name_or_none() {
        let address = |name: &[u8]| [&1u16.to_ne_bytes()[..], name].concat();
        assert_eq!(path_of(&address(b"/run/x\0y")).unwrap().unwrap(), Path::new("/run/x"));
        assert_eq!(path_of(&address(b"x")).unwrap().unwrap(), Path::new("x"));
        assert_eq!(path_of(&address(b"\0name")).unwrap(), None);
        for not_one in [&b""[..], b"\x01", &1u16.to_ne_bytes(), &2u16.to_ne_bytes()] {
            assert!(path_of(not_one).is_err(), "{not_one:?}");
        }
    }
}
