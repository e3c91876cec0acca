//! How often something may happen: so many times at once, and then at an even pace (the generic cell rate algorithm).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket that fills up again.
#[derive(Debug)]
pub struct Pace {
    /// How long one takes.
    each: Duration,
    /// How long all that may happen at once take.
    at_once: Duration,
    /// When the bucket will be full again.
    full_at: Mutex<Instant>,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

impl Pace {
    /// At most so many a minute, and never none; all of them at once if need be.
    #[must_use]
    pub fn per_minute(most: u32) -> Self {
        Self::new(MINUTE / most.max(1), MINUTE)
    }

    /// At most so many a second, and never none; as many at once as in `burst`, which is a second at least.
    #[must_use]
    pub fn per_second(most: u32, burst: Duration) -> Self {
        Self::new(SECOND / most.max(1), burst.max(SECOND))
    }

    fn new(each: Duration, at_once: Duration) -> Self {
        Self { each, at_once, full_at: Mutex::new(Instant::now()) }
    }

    /// Counts one, if it may happen.
    pub fn admits(&self) -> bool {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let next = (*full_at).max(now) + self.each;
        let admitted = next.duration_since(now) <= self.at_once;
        if admitted {
            *full_at = next;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn as_many_are_admitted_at_once_as_within_a_minute() {
        let pace = Pace::per_minute(60);
        let at_once = (0..100).filter(|_| pace.admits()).count();
        assert_eq!(at_once, 60);
        tokio::time::advance(Duration::from_millis(1_100)).await;
        assert!(pace.admits());
        assert!(!pace.admits());
        tokio::time::advance(MINUTE * 2).await;
        assert_eq!((0..100).filter(|_| pace.admits()).count(), 60);
    }
}
