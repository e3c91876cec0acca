//! How the process ends: every task is known, is told, and is waited for.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Where all tasks are spawned, so that the drain can wait for them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Runs a future as a task of its own.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(tokio::spawn(self.tracker.track_future(future)));
    }

    /// Waits until every task has ended, at most until the deadline. True if all have.
    pub async fn drained(&self, deadline: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

/// hyper spawns the streams of an HTTP/2 connection through this.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.spawn(async move { drop(future.await) });
    }
}

/// Begins the shutdown, by being used up or dropped.
#[derive(Debug)]
pub struct Trigger {
    closed_by_drop: watch::Sender<()>,
}

impl Trigger {
    /// Tells every [`Shutdown`].
    pub fn shut_down(self) {
        drop(self.closed_by_drop);
    }
}

/// Learns that the shutdown has begun. It can watch, not trigger.
#[derive(Clone, Debug)]
pub struct Shutdown {
    watch: watch::Receiver<()>,
}

impl Shutdown {
    /// Resolves once the shutdown has begun.
    pub async fn requested(&self) {
        let mut watch = self.watch.clone();
        while watch.changed().await.is_ok() {}
    }
}

/// A trigger and what it triggers.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (closed_by_drop, watch) = watch::channel(());
    (Trigger { closed_by_drop }, Shutdown { watch })
}
