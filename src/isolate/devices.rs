//! The devices that the command sees: a few harmless ones, by name. `/dev` is its own otherwise, with terminals and shared memory of its own.
//!
//! Whoever may open a device outside (another terminal, a disk, a keyboard, a telephone with a network of its own) may not open it in here,
//! unless the operator shares it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, OpenTreeFlags, mount, open_tree};

use super::mounts::{self, named};
use super::view::{make_place, put};

/// The folder of all devices.
pub(super) const FOLDER: &str = "/dev";

/// What of the caller's devices is shown, where it is there.
const SHOWN: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "kvm", "dri"];
/// Folders in memory, which everybody may write to.
const MEMORY: [&str; 2] = ["/dev/shm", "/dev/mqueue"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Devices of the caller's, opened before they are covered.
pub(super) struct Devices {
    shown: Vec<(PathBuf, OwnedFd)>,
}

impl Devices {
    pub(super) fn find() -> io::Result<Self> {
        let mut shown = Vec::new();
        for at in SHOWN.map(|name| Path::new(FOLDER).join(name)) {
            if at.exists() {
                let tree = open(&at).map_err(|error| named(&at, error))?;
                shown.push((at, tree));
            }
        }
        if let Some(own) = own_terminal()? {
            shown.push(("/dev/console".into(), own));
        }
        Ok(Self { shown })
    }

    /// Shows them in the empty folder. The result are the folders within that are file systems of their own.
    pub(super) fn show(self) -> io::Result<[&'static Path; 2]> {
        for (at, tree) in self.shown {
            make_place(&at, &tree)?;
            put(&tree, &at)?;
        }
        for (to, at) in LINKS {
            symlink(to, at).map_err(|error| named(at.as_ref(), error))?;
        }
        let memory = MEMORY.map(Path::new);
        for at in memory {
            fs::create_dir(at).map_err(|error| named(at, error))?;
            mounts::memory(at, "mode=1777", MountFlags::empty())?;
        }
        own_terminals().map(|()| memory)
    }
}

fn open(path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

/// The caller's terminal. Others are no business of the command's.
fn own_terminal() -> io::Result<Option<OwnedFd>> {
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let name = rustix::termios::ttyname(&input, Vec::new())
        .or_else(|_error| rustix::termios::ttyname(&output, Vec::new()))
        .or_else(|_error| rustix::termios::ttyname(&errors, Vec::new()));
    name.ok().map(|name| open(name.as_c_str()).map_err(io::Error::from)).transpose()
}

fn own_terminals() -> io::Result<()> {
    let at = Path::new("/dev/pts");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    fs::create_dir(at).map_err(|error| named(at, error))?;
    mount("devpts", at, "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620")
        .map_err(|error| named(at, error))
}
