//! The folder with the key files: read and written in one way that survives a hostile or careless file system.
//!
//! Everything goes through one descriptor of the folder, so what was checked is what is read. Refused: symlinks, files of another user,
//! private files that others can read, a folder that everybody can write. A file appears whole or not at all, and never replaces another.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// An open folder of key files that has passed the checks.
#[derive(Debug)]
pub(super) struct KeyDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The owner alone: 0600.
    Private,
    /// Everybody: 0644.
    Public,
}

impl KeyDir {
    /// Opens an existing folder.
    pub(super) fn open(path: &Path) -> Result<Self, KeyDirError> {
        // Without trailing slashes and dots, which would make the kernel follow a final symlink.
        let path: PathBuf = path.components().collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(|errno| KeyDirError::open(&path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| KeyDirError::io(&path, errno))?;
        check_owner(&path, &stat)?;
        if stat.st_mode & 0o002 != 0 {
            return Err(KeyDirError::Writable { path });
        }
        Ok(Self { fd, path })
    }

    /// Opens a folder, after making it (0700) if it is missing.
    pub(super) fn open_or_make(path: &Path) -> Result<Self, KeyDirError> {
        match Self::open(path) {
            Err(KeyDirError::Missing { path }) => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&path)
                    .map_err(|source| KeyDirError::Io { path: path.clone(), source })?;
                Self::open(&path)
            }
            opened => opened,
        }
    }

    /// The path of a file in this folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps other Tollgates from creating files here until the lock is dropped. Waits ten seconds at most.
    pub(super) fn lock(&self) -> Result<DirLock<'_>, KeyDirError> {
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(DirLock { dir: self }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
                Err(errno) => return Err(KeyDirError::io(&self.path, errno)),
            }
        }
        Err(KeyDirError::Busy { path: self.path.clone() })
    }

    /// Reads a file; `None` if there is none.
    pub(super) fn read(
        &self,
        name: &str,
        access: Access,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, KeyDirError> {
        let path = self.file(name);
        // NONBLOCK: a FIFO in this place must not hang the start.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(KeyDirError::open(&path, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| KeyDirError::io(&path, errno))?;
        check_file(&path, &stat, access)?;
        // Never grown, so that no copy of a key is left behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
        File::from(fd)
            .take(MAX_FILE as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| KeyDirError::Io { path: path.clone(), source })?;
        if bytes.len() > MAX_FILE {
            return Err(KeyDirError::NotAKeyFile { path });
        }
        Ok(Some(bytes))
    }

    /// Whether anything has this name.
    pub(super) fn has(&self, name: &str) -> Result<bool, KeyDirError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(KeyDirError::io(&self.file(name), errno)),
        }
    }
}

/// The right to create files in a folder.
#[derive(Debug)]
pub(super) struct DirLock<'a> {
    dir: &'a KeyDir,
}

impl DirLock<'_> {
    /// Creates a file, whole and synced to disk. A file of that name is left as it is: [`KeyDirError::Exists`].
    pub(super) fn create(
        &self,
        name: &str,
        access: Access,
        bytes: &[u8],
    ) -> Result<(), KeyDirError> {
        let path = self.dir.file(name);
        let temporary = format!(".{name}.{}", random_suffix(&path)?);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir.fd, &temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| KeyDirError::io(&path, errno))?;
        let linked = self.fill_and_link(File::from(fd), &temporary, name, access, bytes);
        let removed = rustix::fs::unlinkat(&self.dir.fd, &temporary, AtFlags::empty());
        match linked.and_then(|()| removed.map_err(io::Error::from)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyDirError::Exists { path })
            }
            Err(source) => Err(KeyDirError::Io { path, source }),
        }
    }

    /// A hard link, unlike a rename, fails where the name is taken.
    fn fill_and_link(
        &self,
        mut file: File,
        temporary: &str,
        name: &str,
        access: Access,
        bytes: &[u8],
    ) -> io::Result<()> {
        rustix::fs::fchmod(&file, access.mode())?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let dir = &self.dir.fd;
        rustix::fs::linkat(dir, temporary, dir, name, AtFlags::empty())?;
        rustix::fs::fsync(dir)?;
        Ok(())
    }
}

impl Drop for DirLock<'_> {
    fn drop(&mut self) {
        // Closing the folder unlocks it as well, should this fail.
        if let Err(errno) = rustix::fs::flock(&self.dir.fd, FlockOperation::Unlock) {
            tracing::debug!(%errno, "the key folder stays locked until it is closed");
        }
    }
}

impl Access {
    const fn mode(self) -> Mode {
        match self {
            Self::Private => Mode::from_raw_mode(0o600),
            Self::Public => Mode::from_raw_mode(0o644),
        }
    }
}

fn check_owner(path: &Path, stat: &Stat) -> Result<(), KeyDirError> {
    let ours = rustix::process::geteuid().as_raw();
    if stat.st_uid == ours || stat.st_uid == 0 {
        return Ok(());
    }
    Err(KeyDirError::Owner { path: path.to_owned(), uid: stat.st_uid, ours })
}

fn check_file(path: &Path, stat: &Stat, access: Access) -> Result<(), KeyDirError> {
    let path = path.to_owned();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyDirError::NotAKeyFile { path });
    }
    check_owner(&path, stat)?;
    if access == Access::Private && stat.st_mode & 0o077 != 0 {
        return Err(KeyDirError::Exposed { path, mode: stat.st_mode & 0o777 });
    }
    if stat.st_mode & 0o002 != 0 {
        return Err(KeyDirError::Writable { path });
    }
    Ok(())
}

fn random_suffix(path: &Path) -> Result<String, KeyDirError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| KeyDirError::Io {
        path: path.to_owned(),
        source: io::Error::other("the system gave no random bytes"),
    })?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// Why a key file or its folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyDirError {
    /// The folder is not there.
    #[error("the folder {} does not exist", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// Somebody may have pointed us elsewhere.
    #[error("{} is a symbolic link; put the real file or folder there, or name its real path", path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// Whoever owns it can replace it.
    #[error("{} belongs to user {uid}, not to root or to the user that runs Tollgate ({ours}); change its owner or use another folder", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Our effective user.
        ours: u32,
    },
    /// Whoever can write can replace.
    #[error("everybody can write {}; run `chmod o-w` on it and check what lies there", path.display())]
    Writable {
        /// The file or folder.
        path: PathBuf,
    },
    /// A key that is not secret.
    #[error("{} can be used by others (mode {mode:04o}); if nobody has read it run `chmod 600` on it, otherwise replace it", path.display())]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A folder, a device, a FIFO, or larger than any key.
    #[error("{} is not a key or certificate file", path.display())]
    NotAKeyFile {
        /// What lies there.
        path: PathBuf,
    },
    /// Nothing is ever written over.
    #[error("{} exists already and is not replaced; move it away first if you mean to make a new one", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has held the lock for too long.
    #[error("another process keeps the folder {} locked", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// Anything else that the file system says.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl KeyDirError {
    fn io(path: &Path, errno: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: errno.into() }
    }

    /// The kernel answers a refused symlink with `ELOOP` or `ENOTDIR`, depending on the flags.
    fn open(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        if path.is_symlink() {
            return Self::Symlink { path };
        }
        match errno {
            Errno::NOENT => Self::Missing { path },
            _ => Self::Io { path, source: errno.into() },
        }
    }
}

/// Keys and certificates are a few KiB.
const MAX_FILE: usize = 64 * 1024;
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn files_and_folder_get_the_modes_they_promise_whatever_the_umask() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/certs");
        let dir = KeyDir::open_or_make(&path).unwrap();
        let lock = dir.lock().unwrap();
        lock.create("key", Access::Private, b"k").unwrap();
        lock.create("pem", Access::Public, b"p").unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("key")), 0o600);
        assert_eq!(mode(&path.join("pem")), 0o644);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "a temporary file was left behind");
    }

    #[test]
    fn a_file_is_never_written_over() {
        let root = tempfile::tempdir().unwrap();
        let dir = KeyDir::open_or_make(root.path()).unwrap();
        let lock = dir.lock().unwrap();
        lock.create("key", Access::Private, b"first").unwrap();
        let again = lock.create("key", Access::Private, b"second");
        assert!(matches!(again, Err(KeyDirError::Exists { .. })), "{again:?}");
        let kept = dir.read("key", Access::Private).unwrap().unwrap();
        assert_eq!(kept.as_slice(), b"first");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn symlinks_are_refused_for_the_folder_and_for_files() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("real");
        drop(KeyDir::open_or_make(&real).unwrap().lock().unwrap().create(
            "key",
            Access::Private,
            b"k",
        ));
        let link = root.path().join("link");
        symlink(&real, &link).unwrap();
        for path in [link, root.path().join("link/"), root.path().join("link/.")] {
            let opened = KeyDir::open_or_make(&path);
            assert!(matches!(opened, Err(KeyDirError::Symlink { .. })), "{path:?} {opened:?}");
        }
        symlink(real.join("key"), real.join("other")).unwrap();
        symlink(root.path().join("nowhere"), real.join("dangling")).unwrap();
        let dir = KeyDir::open(&real).unwrap();
        for name in ["other", "dangling"] {
            let read = dir.read(name, Access::Private);
            assert!(matches!(read, Err(KeyDirError::Symlink { .. })), "{name} {read:?}");
            let made = dir.lock().unwrap().create(name, Access::Private, b"x");
            assert!(matches!(made, Err(KeyDirError::Exists { .. })), "{name} {made:?}");
        }
    }

    #[test]
    fn what_others_can_read_or_write_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = KeyDir::open(root.path()).unwrap();
        dir.lock().unwrap().create("key", Access::Private, b"k").unwrap();
        for bits in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(root.path().join("key"), Permissions::from_mode(bits)).unwrap();
            let read = dir.read("key", Access::Private);
            assert!(matches!(read, Err(KeyDirError::Exposed { .. })), "{bits:o} {read:?}");
        }
        fs::set_permissions(root.path(), Permissions::from_mode(0o777)).unwrap();
        let opened = KeyDir::open(root.path());
        assert!(matches!(opened, Err(KeyDirError::Writable { .. })), "{opened:?}");
    }

    #[test]
    fn another_owner_is_refused_and_root_is_not() {
        let stat = rustix::fs::stat("/").unwrap();
        let mut foreign = stat;
        foreign.st_uid = rustix::process::geteuid().as_raw() ^ 0x5a5a;
        assert!(check_owner(Path::new("/"), &stat).is_ok());
        let refused = check_owner(Path::new("/"), &foreign);
        assert!(matches!(refused, Err(KeyDirError::Owner { .. })), "{refused:?}");
    }

    #[test]
    fn a_fifo_a_folder_and_a_huge_file_are_not_key_files() {
        let root = tempfile::tempdir().unwrap();
        let dir = KeyDir::open(root.path()).unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&dir.fd, "fifo", FileType::Fifo, mode, 0).unwrap();
        dir.lock().unwrap().create("huge", Access::Private, &vec![b'x'; MAX_FILE + 1]).unwrap();
        for name in ["folder", "fifo", "huge"] {
            let read = dir.read(name, Access::Private);
            assert!(matches!(read, Err(KeyDirError::NotAKeyFile { .. })), "{name} {read:?}");
        }
    }
}
