//! What one sandbox may ask of the DNS responder, so that its questions never crowd out another's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Pace;

/// A rate, and connections at once. Reloads do not reset it.
#[derive(Debug)]
pub struct Questions {
    pace: Pace,
    connections: Arc<Semaphore>,
}

/// So many seconds' worth of questions may come at once.
const BURST: Duration = Duration::from_secs(2);
/// DNS connections at once of one sandbox; a resolver opens one or two.
const CONNECTIONS: usize = 8;

impl Questions {
    /// So many in a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let pace = Pace::per_second(per_second, BURST);
        Self { pace, connections: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Takes one; `false` if there were too many.
    #[must_use]
    pub fn take(&self) -> bool {
        self.pace.admits()
    }

    /// Takes one of the connections, until the permit is dropped.
    #[must_use]
    pub fn connect(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_seconds_worth_may_come_at_once_and_then_the_rate_holds() {
        let questions = Questions::new(10);
        let taken = || (0..100).filter(|_| questions.take()).count();
        assert_eq!(taken(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(), 10);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(taken(), 20);
        let slow = Questions::new(1);
        assert_eq!((0..5).filter(|_| slow.take()).count(), 2);
    }
}
