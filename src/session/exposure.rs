//! How often a sandbox showed a real value where it is not bound. Each refusal tells a guesser that the guess was right, so they are few.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The exposures of one sandbox within the hour. Reloads do not reset it.
#[derive(Debug)]
pub struct Exposure {
    most: usize,
    hits: Mutex<VecDeque<Instant>>,
}

/// How long an exposure counts.
const COUNTED_FOR: Duration = Duration::from_secs(3_600);

impl Exposure {
    pub(super) const fn new(most: usize) -> Self {
        Self { most, hits: Mutex::new(VecDeque::new()) }
    }

    /// Counts one exposure.
    pub fn count(&self) {
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut hits);
        if hits.len() < self.most {
            hits.push_back(Instant::now());
        }
    }

    /// Whether there were so many that the sandbox's secrets rest: they are neither opened nor compared with what it sends.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut hits);
        hits.len() >= self.most
    }
}

fn forget(hits: &mut VecDeque<Instant>) {
    while hits.front().is_some_and(|hit| hit.elapsed() >= COUNTED_FOR) {
        hits.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_exposure_counts_for_an_hour() {
        let exposure = Exposure::new(2);
        exposure.count();
        assert!(!exposure.is_exhausted());
        tokio::time::advance(COUNTED_FOR / 2).await;
        exposure.count();
        exposure.count();
        assert!(exposure.is_exhausted());
        tokio::time::advance(COUNTED_FOR / 2).await;
        assert!(!exposure.is_exhausted());
    }
}
