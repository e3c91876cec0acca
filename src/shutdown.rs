//! How Tollgate stops: one signal, tasks that are counted, and a drain with a deadline.
//!
//! Every task is spawned through [`Tasks`], so that none is forgotten. The signal is the closing of a `watch`: it cannot be missed and cannot
//! be taken back. Who owns the [`Trigger`] stops everything, on purpose or by dropping it.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// The owner's end. Dropping it is the signal too, but nobody waits then.
#[derive(Debug)]
pub struct Trigger {
    open: watch::Sender<()>,
    tracker: TaskTracker,
}

/// The tasks' end: spawns more tasks, and hears the signal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    signal: watch::Receiver<()>,
    tracker: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended by itself.
    All,
    /// The deadline came first; so many tasks still ran, and the end of the runtime cuts them.
    Cut(usize),
}

impl Tasks {
    /// The two ends.
    #[must_use]
    pub fn new() -> (Trigger, Self) {
        let (open, signal) = watch::channel(());
        let tracker = TaskTracker::new();
        (Trigger { open, tracker: tracker.clone() }, Self { signal, tracker })
    }

    /// Starts a task, which the drain waits for. It is the task's own business to end after [`Tasks::closed`].
    ///
    /// Dropping the handle detaches the task; it does not end it. Panics outside a Tokio runtime.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Completes once Tollgate is to stop. Cancel safe.
    pub async fn closed(&self) {
        let mut signal = self.signal.clone();
        // Nothing is ever sent: the only change is the end of the sender.
        while signal.changed().await.is_ok() {}
    }

    /// Whether Tollgate is to stop.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.signal.has_changed().is_err()
    }

    /// How many tasks run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

impl Trigger {
    /// Gives the signal and waits for the tasks, at most for `deadline`.
    pub async fn drain(self, deadline: Duration) -> Drained {
        let Self { open, tracker } = self;
        drop(open);
        tracker.close();
        match tokio::time::timeout(deadline, tracker.wait()).await {
            Ok(()) => Drained::All,
            Err(_elapsed) => Drained::Cut(tracker.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_signals_and_waits_for_every_task() {
        let (trigger, tasks) = Tasks::new();
        assert!(!tasks.is_closed());
        let worker = tasks.clone();
        tasks.spawn(async move {
            worker.closed().await;
            assert!(worker.is_closed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(tasks.running(), 1);
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Drained::All);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline() {
        let (trigger, tasks) = Tasks::new();
        tasks.spawn(std::future::pending::<()>());
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Drained::Cut(1));
    }

    #[tokio::test]
    async fn a_dropped_trigger_is_the_signal_also_for_who_listens_late() {
        let (trigger, tasks) = Tasks::new();
        drop(trigger);
        tasks.closed().await;
        assert!(tasks.is_closed());
    }
}
