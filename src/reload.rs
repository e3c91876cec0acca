//! Notices that policy files have changed, so that they are read again without being asked.
//!
//! Editors and orchestrators replace files, links and whole folders: what is watched is the folder around each of them. A burst of changes
//! is one change. What is read again is put into force by [`Server::reload`](crate::server::Server::reload), whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::server::Server;

/// A watch over policy files and folders.
#[derive(Debug)]
pub struct Watch {
    watcher: RecommendedWatcher,
    targets: Vec<PathBuf>,
    /// A change while another waits is the same change.
    changes: Arc<Notify>,
}

/// A change is reported once nothing has changed for so long,
const QUIET: Duration = Duration::from_millis(200);
/// or after so long at the latest.
const LATEST: Duration = Duration::from_secs(2);

impl Watch {
    /// Begins to watch.
    pub fn begin(paths: &[PathBuf]) -> Result<Self, notify::Error> {
        let targets: Vec<_> = paths.iter().flat_map(|path| targets_of(path)).collect();
        let changes = Arc::new(Notify::new());
        let (tell, of_handler) = (changes.clone(), targets.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| matters(&event, &of_handler)) {
                tell.notify_one();
            }
        })?;
        let mut watch = Self { watcher, targets, changes };
        watch.attach()?;
        Ok(watch)
    }

    /// Waits for the next change. Cancel safe but for the quiet time, which then begins anew with the next change.
    pub async fn changed(&mut self) {
        self.changes.notified().await;
        let latest = Instant::now() + LATEST;
        let quiet = |now| latest.min(now + QUIET);
        while timeout_at(quiet(Instant::now()), self.changes.notified()).await.is_ok()
            && Instant::now() < latest
        {}
        // A folder that was replaced is another folder.
        if let Err(error) = self.attach() {
            tracing::warn!(%error, "some policy files are no longer watched; SIGHUP reads them again");
        }
    }

    fn attach(&mut self) -> Result<(), notify::Error> {
        for target in &self.targets {
            let around = target.parent().unwrap_or(target);
            self.watcher.watch(around, RecursiveMode::NonRecursive)?;
            if target.is_dir() {
                self.watcher.watch(target, RecursiveMode::Recursive)?;
            }
        }
        Ok(())
    }
}

/// A watch from before the files are read for the first time, so that no change falls between the two. Without one, it says so.
#[must_use]
pub fn watch(paths: &[PathBuf]) -> Option<Watch> {
    Watch::begin(paths)
        .inspect_err(|error| {
            tracing::warn!(%error, "the policy files are not watched; SIGHUP reads them again");
        })
        .ok()
}

/// Reloads at every change. Never ends.
pub async fn follow(server: &Server, watch: Option<Watch>) {
    let Some(mut watch) = watch else { return std::future::pending().await };
    loop {
        watch.changed().await;
        // The server itself says what came of it.
        if server.reload().is_ok() {
            tracing::info!("the policy files have changed and were read again");
        }
    }
}

/// A path, and where it leads if it is a link.
fn targets_of(path: &Path) -> Vec<PathBuf> {
    let mut targets = vec![std::path::absolute(path).unwrap_or_else(|_error| path.to_owned())];
    targets.extend(path.canonicalize());
    targets.dedup();
    targets
}

/// Reading is no change, and neither is a log that is written beside the policies.
fn matters(event: &notify::Event, targets: &[PathBuf]) -> bool {
    !event.kind.is_access()
        && (event.need_rescan()
            || event.paths.iter().any(|path| targets.iter().any(|target| concerns(path, target))))
}

fn concerns(changed: &Path, target: &Path) -> bool {
    // `..data` is the link by which Kubernetes swaps all files of a volume at once.
    if target.starts_with(changed) || changed.file_name().is_some_and(|name| name == "..data") {
        return true;
    }
    let extension = changed.extension().and_then(|extension| extension.to_str());
    changed.starts_with(target) && matches!(extension, None | Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn within_seconds(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_or_swapped_by_a_link_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::begin(std::slice::from_ref(&file)).unwrap();
        fs::write(&file, "b").unwrap();
        assert!(within_seconds(&mut watch).await, "written");
        let next = folder.path().join("next");
        fs::write(&next, "c").unwrap();
        fs::rename(&next, &file).unwrap();
        assert!(within_seconds(&mut watch).await, "replaced");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("elsewhere", &file).unwrap();
        assert!(within_seconds(&mut watch).await, "a link");
    }

    #[tokio::test]
    async fn a_folder_that_is_replaced_as_a_whole_is_watched_on() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("policies");
        fs::create_dir(&folder).unwrap();
        let mut watch = Watch::begin(std::slice::from_ref(&folder)).unwrap();
        fs::rename(&folder, around.path().join("old")).unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(within_seconds(&mut watch).await, "replaced");
        fs::write(folder.join("new.yaml"), "a").unwrap();
        assert!(within_seconds(&mut watch).await, "written in the new one");
    }

    #[test]
    fn what_lies_beside_the_policies_does_not_concern_them() {
        let target = Path::new("/srv/policies");
        for (changed, wanted) in [
            ("/srv/policies/a.yaml", true),
            ("/srv/policies/team/b.json", true),
            ("/srv/policies/team", true),
            ("/srv/policies", true),
            ("/srv/..data", true),
            ("/srv/policies/audit.log", false),
            ("/srv/policies-old/a.yaml", false),
            ("/srv/audit.jsonl", false),
        ] {
            assert_eq!(concerns(Path::new(changed), target), wanted, "{changed}");
        }
    }
}
