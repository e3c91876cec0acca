//! A folder of our own below the temporary one.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::cli::Failure;

/// Removed with all that is in it when it is dropped.
pub(in crate::cli) struct Folder(PathBuf);

impl Folder {
    /// For one command, which names it.
    pub(in crate::cli) fn make(command: &str) -> Result<Self, Failure> {
        let mut name = [0; 8];
        aws_lc_rs::rand::fill(&mut name).map_err(|_error| "no randomness")?;
        let name = format!("tollgate-{command}-{:016x}", u64::from_ne_bytes(name));
        let folder = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only we can read.
    pub(in crate::cli) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a temporary folder is left behind");
        }
    }
}
