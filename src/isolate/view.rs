//! What the command sees of the file system: the caller's, except for what is covered here.
//!
//! - `/run`, `/tmp` and `/var/tmp` are its own and empty, and in memory; so is `/dev`, but for a few devices ([`super::devices`]). `/proc`
//!   shows its own processes. `/sys` and control groups are read-only.
//! - Tollgate's keys, policies, audit and secret files are covered, at every path at which they can be seen.
//! - The trust stores and `resolv.conf` of the system show Tollgate's.
//! - What the operator shares is put back.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, Mode, OFlags, access, open, stat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind_recursive,
    mount_change, move_mount, open_tree,
};

use super::connects::{Reachable, mount_of};
use super::devices::{self, Devices};
use super::mounts::{self, Mount, named};
use super::plan::Plan;
use super::trusted::{EMPTY, Trust};

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Where sockets may be connected to.
    pub(super) reachable: Reachable,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// Covers what the command must not see, and enters its working directory.
pub(super) fn cover(plan: &Plan) -> io::Result<View> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let before = mounts::read()?;
    let mut view = View::default();
    let trust = Trust::find(plan)?;
    let hidden: Vec<_> = plan.hidden.iter().flat_map(|path| Hidden::find(path, &before)).collect();
    let devices = Devices::find()?;
    let kept = Kept::open(plan, &mut view)?;
    read_only_kernel(&before)?;
    for folder in private_folders() {
        mounts::memory(&folder.at, folder.options, MountFlags::empty())?;
        view.reachable.devices.push(stat(&folder.at)?.st_dev);
    }
    own_processes()?;
    for folder in devices.show()? {
        view.reachable.devices.push(stat(folder)?.st_dev);
    }
    kept.put_back()?;
    trust.show()?;
    let pinned = pin(plan.read_later.iter().chain(&plan.hidden))?;
    view.reachable.mounts = shared_mounts(&plan.shared, pinned)?;
    for hidden in &hidden {
        hidden.cover()?;
    }
    own_runtime_folder(plan)?;
    rustix::process::chdir(&plan.directory).map_err(|error| named(&plan.directory, error))?;
    Ok(view)
}

/// A folder that is the command's alone.
struct Private {
    at: PathBuf,
    options: &'static str,
}

fn private_folders() -> Vec<Private> {
    const FOLDERS: [(&str, &str); 5] = [
        ("/run", "mode=0755"),
        ("/var/run", "mode=0755"),
        ("/tmp", "mode=1777"),
        ("/var/tmp", "mode=1777"),
        (devices::FOLDER, "mode=0755"),
    ];
    let mut folders: Vec<Private> = Vec::new();
    for (path, options) in FOLDERS {
        let Ok(at) = fs::canonicalize(path) else { continue };
        if !folders.iter().any(|folder| at.starts_with(&folder.at)) {
            folders.push(Private { at, options });
        }
    }
    folders
}

/// Whether a path lies in a folder that is the command's alone.
pub(super) fn is_private(path: &Path) -> bool {
    private_folders().iter().any(|folder| path.starts_with(&folder.at))
}

/// Control groups could stop Tollgate, which often runs in the command's own.
fn read_only_kernel(before: &[Mount]) -> io::Result<()> {
    let kernels = |mount: &&Mount| {
        mount.at.starts_with("/sys") || matches!(mount.kind.as_str(), "cgroup" | "cgroup2")
    };
    for mount in before.iter().filter(kernels) {
        match mount.read_only() {
            // What we cannot reach, the command cannot either.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) || access(&mount.at, Access::EXISTS).is_ok() =>
            {
                return Err(named(&mount.at, error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn own_processes() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).map_err(|error| {
        let error = named(Path::new("/proc"), error);
        io::Error::new(
            error.kind(),
            format!(
                "{error} (containers mask parts of it: run outside, or with an unmasked /proc)"
            ),
        )
    })
}

/// Moves a tree that was opened to a path.
pub(super) fn put(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, at, flags).map_err(|error| named(at, error))
}

/// What is seen although it lies in a folder that is covered.
struct Kept {
    trees: Vec<(PathBuf, OwnedFd)>,
}

impl Kept {
    fn open(plan: &Plan, view: &mut View) -> io::Result<Self> {
        let mut trees = Vec::new();
        let mut keep = |path: &Path| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, path, flags).map_err(|error| named(path, error))?;
            trees.push((path.to_owned(), tree));
            Ok::<_, io::Error>(())
        };
        // NixOS has its programs there.
        for path in ["/run/current-system", "/run/opengl-driver"].map(Path::new) {
            if path.exists() {
                keep(path)?;
            }
        }
        let home = plan.variable("HOME").map(Path::new);
        for folder in [Some(plan.directory.as_path()), home].into_iter().flatten() {
            if folder.is_dir() && is_private(folder) {
                keep(folder)?;
            }
        }
        if private_folders().iter().any(|folder| folder.at == plan.directory) {
            let folder = plan.directory.display();
            view.notes.push(format!("the working directory is {folder}: all of it is shared"));
        }
        for path in &plan.shared {
            keep(path)?;
        }
        Ok(Self { trees })
    }

    fn put_back(self) -> io::Result<()> {
        for (path, tree) in self.trees {
            if is_private(&path) {
                make_place(&path, &tree)?;
            }
            put(&tree, &path)?;
        }
        Ok(())
    }
}

/// A file or folder to mount over.
pub(super) fn make_place(path: &Path, tree: &OwnedFd) -> io::Result<()> {
    let is_folder = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode)
        == rustix::fs::FileType::Directory;
    if path.exists() {
        return Ok(());
    }
    if is_folder {
        return fs::create_dir_all(path).map_err(|error| named(path, error));
    }
    mounts::write(path, b"")
}

/// Makes each folder above something of Tollgate's a mount, which nobody in this name space can rename: another file could be put in its
/// place otherwise, for Tollgate to read again now or in its next run.
fn pin<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> io::Result<Vec<&'a Path>> {
    let can_be_renamed = |folder: &&Path| {
        let above = folder.parent();
        above.is_some_and(|above| access(above, Access::WRITE_OK).is_ok()) && folder.is_dir()
    };
    // In the order of names, which has those above first.
    let folders: BTreeSet<_> = paths.flat_map(|path| path.ancestors().skip(1)).collect();
    let folders: Vec<_> = folders.into_iter().filter(can_be_renamed).collect();
    for folder in &folders {
        mount_bind_recursive(*folder, *folder).map_err(|error| named(folder, error))?;
    }
    Ok(folders)
}

/// The mounts through which what is shared is found; what is pinned within is one of its own.
fn shared_mounts(shared: &[PathBuf], pinned: Vec<&Path>) -> io::Result<Vec<u64>> {
    let is_shared = |folder: &&Path| shared.iter().any(|path| folder.starts_with(path));
    let pinned = pinned.into_iter().filter(is_shared);
    let mount = |path: &Path| {
        let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        found.and_then(|found| mount_of(&found)).map_err(|error| named(path, error))
    };
    shared.iter().map(PathBuf::as_path).chain(pinned).map(mount).collect()
}

/// The caller's folder for sockets and the like, which is below `/run`: an empty one of its own.
fn own_runtime_folder(plan: &Plan) -> io::Result<()> {
    let Some(folder) = plan.variable("XDG_RUNTIME_DIR").map(Path::new) else { return Ok(()) };
    if !is_private(folder) || folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| named(folder, error))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// A file or folder that is covered with nothing.
struct Hidden {
    at: PathBuf,
    identity: (u64, u64),
}

impl Hidden {
    /// Every path at which it can be seen.
    fn find(path: &Path, before: &[Mount]) -> Vec<Self> {
        let Ok(path) = fs::canonicalize(path) else { return Vec::new() };
        let Some(identity) = identity(&path) else { return Vec::new() };
        let aliases = mounts::aliases(before, &path).into_iter();
        let same = aliases.filter(|alias| self::identity(alias) == Some(identity));
        same.chain([path]).map(|at| Self { at, identity }).collect()
    }

    /// Covers it, unless it is covered already with what lies above it.
    fn cover(&self) -> io::Result<()> {
        if identity(&self.at) != Some(self.identity) {
            return Ok(());
        }
        if self.at.is_dir() {
            let flags = MountFlags::RDONLY | MountFlags::NOEXEC;
            mounts::memory(&self.at, "mode=0555,size=4k", flags)
        } else {
            mounts::show(Path::new(EMPTY), &self.at)
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    stat(path).ok().map(|status| (status.st_dev, status.st_ino))
}
