//! A value in a file, read again when the file changes. Links are followed, for that is how an orchestrator swaps a mounted secret.

use std::fs::{File, Metadata};
use std::io::{Error, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::{FILE_CHECK, Fault, Fetched, Fetching, Lifetime, Source, without_newline};

/// The longest value with its newline.
const MAX_BYTES: u64 = 65_536 + 2;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

pub(super) struct SecretFile {
    path: Arc<Path>,
    warned: Arc<AtomicBool>,
}

impl SecretFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: path.into(), warned: Arc::default() }
    }
}

impl Source for SecretFile {
    fn fetch(&self, since: Option<Stamp>) -> Fetching<'_> {
        let (path, warned) = (self.path.clone(), self.warned.clone());
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || read(&path, since, &warned));
            // The only way to fail is a runtime that ends.
            read.await.map_err(|_ending| Fault::NoAnswer)?
        })
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime::For(FILE_CHECK)
    }
}

/// Opened once; whatever is asked is asked of the open file.
fn read(path: &Path, since: Option<Stamp>, warned: &AtomicBool) -> Result<Fetched, Fault> {
    let unreadable = |error: Error| Fault::Unreadable(error.kind());
    // Not blocking, so that a pipe in the place of a file does not hold a thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let mut file = File::from(opened.map_err(|error| unreadable(error.into()))?);
    let before = file.metadata().map_err(unreadable)?;
    if !before.is_file() {
        return Err(Fault::NotAFile);
    }
    let stamp = Stamp::of(&before);
    if since == Some(stamp) {
        return Ok(Fetched::Unchanged);
    }
    if before.mode() & 0o004 != 0 && !warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(path = %path.display(), "a secret's file can be read by every user; chmod o-r it");
    }
    // Room for everything at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(0) + 1));
    file.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if Stamp::of(&file.metadata().map_err(unreadable)?) != stamp {
        return Err(Fault::Changing);
    }
    Ok(Fetched::Value(Arc::new(without_newline(&bytes)?), Some(stamp)))
}
