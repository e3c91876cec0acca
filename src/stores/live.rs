//! One secret's value over time: fetched when wanted, once for all who wait, renewed while in use, remembered when retired.
//!
//! ```text
//! fetched ──────────── 80 % ─────── refresh ──────────── 2 × refresh
//!         fresh              fresh, and       only while the      gone:
//!                            renewed behind   source fails        an error
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{Fault, SourceError, SourceName};
use super::file::Stamp;
use super::{Fetched, Lifetime, Source, TokenEndpoints, open};
use crate::secret::{SecretName, SecretValue, SourceSpec, TokenUrl};
use crate::shutdown::Tasks;

/// How long answers may still hold a value that was replaced.
const RETIRED_FOR: Duration = Duration::from_secs(3_600);
/// How many retired values are kept; the oldest give way. A source that rotates faster than this fills an hour is not a source.
const RETIRED_KEPT: usize = 256;
/// The first pause after a failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The value of one secret of one store, shared by all sandboxes that use it.
///
/// Nothing is fetched before the value is wanted, and nothing is renewed while nobody wants it. Requests that find the value missing wait
/// for one common fetch, each no longer than its source may take. After a failure the source is left alone for 1 s, then 2, up to 60; until
/// then the failure is the answer, unless the value held is at most one more `refresh` old.
pub struct LiveSecret {
    name: SecretName,
    source_name: SourceName,
    source: Arc<dyn Source>,
    needs_header: bool,
    token_url: Option<TokenUrl>,
    state: ArcSwap<State>,
    /// Counts the values that were fetched.
    version: AtomicU64,
    /// Whether a fetch is under way: only its task writes the state.
    fetching: AtomicBool,
    /// Closed by nobody; each end of a fetch is a change.
    ended: watch::Sender<()>,
    tasks: Tasks,
}

/// One moment's truth, replaced as a whole.
#[derive(Clone, Default)]
struct State {
    current: Option<Held>,
    failure: Option<Failure>,
    retired: Vec<Retired>,
}

#[derive(Clone)]
struct Held {
    value: Arc<SecretValue>,
    stamp: Option<Stamp>,
    /// `None`: for as long as Tollgate runs.
    until: Option<Until>,
}

#[derive(Clone, Copy)]
struct Until {
    renew: Instant,
    stale: Instant,
    gone: Instant,
}

#[derive(Clone)]
struct Failure {
    fault: Fault,
    times: u32,
    retry: Instant,
}

#[derive(Clone)]
struct Retired {
    value: Arc<SecretValue>,
    until: Instant,
}

/// What a state has to offer at a moment.
enum Offer {
    Fresh(Arc<SecretValue>),
    /// Good, and to be renewed behind the request.
    Renewable(Arc<SecretValue>),
    /// The source has just failed.
    Failed(Fault),
    /// To be fetched first.
    Nothing,
}

impl LiveSecret {
    /// A secret of which nothing is fetched yet. `needs_header`: a value that cannot stand in a header is refused.
    #[must_use]
    pub fn new(
        name: SecretName,
        spec: SourceSpec,
        needs_header: bool,
        endpoints: &TokenEndpoints,
        tasks: Tasks,
    ) -> Arc<Self> {
        let token_url = match &spec {
            SourceSpec::Token(token) => Some(token.url.clone()),
            SourceSpec::Env(_)
            | SourceSpec::File(_)
            | SourceSpec::Command { .. }
            | SourceSpec::Value(_) => None,
        };
        let (source_name, source) = open(spec, endpoints);
        let secret = Self::of(name, source_name, source, needs_header, tasks);
        Arc::new(Self { token_url, ..secret })
    }

    #[cfg(test)]
    pub(super) fn over(
        name: SecretName,
        source_name: SourceName,
        source: Arc<dyn Source>,
        needs_header: bool,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self::of(name, source_name, source, needs_header, tasks))
    }

    fn of(
        name: SecretName,
        source_name: SourceName,
        source: Arc<dyn Source>,
        needs_header: bool,
        tasks: Tasks,
    ) -> Self {
        Self {
            name,
            source_name,
            source,
            needs_header,
            token_url: None,
            state: ArcSwap::default(),
            version: AtomicU64::new(0),
            fetching: AtomicBool::new(false),
            ended: watch::Sender::new(()),
            tasks,
        }
    }

    /// Whether a value that cannot stand in a header is refused.
    #[must_use]
    pub const fn needs_header(&self) -> bool {
        self.needs_header
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &SecretName {
        &self.name
    }

    /// The token endpoint that gives the value out, if one does.
    #[must_use]
    pub const fn token_url(&self) -> Option<&TokenUrl> {
        self.token_url.as_ref()
    }

    /// The value, if it is held and good: wait-free. Starts its renewal when it is due. Called within the runtime.
    #[must_use]
    pub fn fresh(self: &Arc<Self>) -> Option<Arc<SecretValue>> {
        match self.state.load().offer() {
            Offer::Fresh(value) => Some(value),
            Offer::Renewable(value) => {
                self.start_fetch();
                Some(value)
            }
            Offer::Failed(_) | Offer::Nothing => None,
        }
    }

    /// The value, fetched if need be. Waits no longer than the source may take. Cancel safe: a fetch goes on without its callers.
    pub async fn value(self: &Arc<Self>) -> Result<Arc<SecretValue>, SourceError> {
        let deadline = Instant::now() + self.source.patience();
        loop {
            let mut ended = self.ended.subscribe();
            match self.state.load().offer() {
                Offer::Fresh(value) => return Ok(value),
                Offer::Renewable(value) => {
                    self.start_fetch();
                    return Ok(value);
                }
                Offer::Failed(fault) => return Err(self.error(fault)),
                Offer::Nothing => self.start_fetch(),
            }
            if tokio::time::timeout_at(deadline, ended.changed()).await.is_err() {
                return Err(self.error(Fault::NoAnswer));
            }
        }
    }

    /// Everything that an answer may still hold: the current value, those retired within the hour, and what buys them. Fetches nothing.
    #[must_use]
    pub fn held(&self) -> Vec<Arc<SecretValue>> {
        let state = self.state.load();
        let now = Instant::now();
        let current = state.current.iter().map(|held| held.value.clone());
        let retired = state.retired.iter().filter(|retired| now < retired.until);
        let retired = retired.map(|retired| retired.value.clone());
        current.chain(retired).chain(self.source.also_held()).collect()
    }

    /// Changes whenever [`held`](Self::held) may have gained a value: what was built over the held values is then built anew.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn error(&self, fault: Fault) -> SourceError {
        SourceError { secret: self.name.clone(), fault, source_name: self.source_name.clone() }
    }

    /// Starts a fetch unless one is under way.
    fn start_fetch(self: &Arc<Self>) {
        if self.fetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let flight = Flight(self.clone());
        // Detached: the fetch outlives whoever asked for it.
        drop(self.tasks.spawn(async move { flight.0.fetch().await }));
    }

    async fn fetch(&self) {
        let state = self.state.load_full();
        // Another fetch may have ended between the caller's look and this one.
        if matches!(state.offer(), Offer::Fresh(_) | Offer::Failed(_)) {
            return;
        }
        let stamp = state.current.as_ref().and_then(|held| held.stamp);
        let fetched = self.source.fetch(stamp).await.and_then(|fetched| self.check(fetched));
        if let Err(fault) = &fetched {
            tracing::warn!(secret = %self.name, source = %self.source_name, %fault, "a secret's value could not be fetched");
        }
        let (now, lifetime) = (Instant::now(), self.source.lifetime());
        self.state.store(Arc::new(state.after(&fetched, lifetime, now)));
        // Also a fetch that failed may have brought what must not be shown.
        if !matches!(fetched, Ok(Fetched::Unchanged)) {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    fn check(&self, fetched: Fetched) -> Result<Fetched, Fault> {
        match &fetched {
            Fetched::Value(value, _) if self.needs_header && !value.fits_header() => {
                Err(Fault::NotForHeader)
            }
            Fetched::Value(..) | Fetched::Unchanged => Ok(fetched),
        }
    }
}

impl fmt::Debug for LiveSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveSecret({} from {})", self.name, self.source_name)
    }
}

/// A fetch under way. However it ends, also by a panic or the end of the runtime, the next one may start and those who wait look again.
struct Flight(Arc<LiveSecret>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.fetching.store(false, Ordering::Release);
        self.0.ended.send_replace(());
    }
}

impl State {
    fn offer(&self) -> Offer {
        let current = self.current.as_ref();
        let Some(until) = current.and_then(|held| held.until) else {
            return current
                .map_or_else(|| self.failed_or_nothing(), |held| Offer::Fresh(held.value.clone()));
        };
        let value = || current.map(|held| held.value.clone());
        let now = Instant::now();
        let paused = self.failure.as_ref().is_some_and(|failure| now < failure.retry);
        // While the source fails, the old value stands in: nobody waits for a source that may hang.
        let good_until = if self.failure.is_some() { until.gone } else { until.stale };
        let offer = match now {
            _ if now < until.renew => value().map(Offer::Fresh),
            _ if now < good_until && paused => value().map(Offer::Fresh),
            _ if now < good_until => value().map(Offer::Renewable),
            _ => None,
        };
        offer.unwrap_or_else(|| self.failed_or_nothing())
    }

    fn failed_or_nothing(&self) -> Offer {
        match &self.failure {
            Some(failure) if Instant::now() < failure.retry => Offer::Failed(failure.fault),
            Some(_) | None => Offer::Nothing,
        }
    }

    fn after(&self, fetched: &Result<Fetched, Fault>, lifetime: Lifetime, now: Instant) -> Self {
        let mut next = self.clone();
        next.retired.retain(|retired| now < retired.until);
        let until = match lifetime {
            Lifetime::Forever => None,
            Lifetime::For(refresh) => Some(Until {
                renew: now + refresh.mul_f64(0.8),
                stale: now + refresh,
                gone: now + refresh * 2,
            }),
            Lifetime::Exactly(good) => {
                Some(Until { renew: now + good.mul_f64(0.8), stale: now + good, gone: now + good })
            }
        };
        match fetched {
            Ok(Fetched::Unchanged) => {
                next.failure = None;
                if let Some(held) = &mut next.current {
                    held.until = until;
                }
            }
            Ok(Fetched::Value(value, stamp)) => {
                next.failure = None;
                next.replace(value, *stamp, until, now);
            }
            Err(fault) => {
                let times = self.failure.as_ref().map_or(0, |failure| failure.times);
                let pause = FIRST_PAUSE.saturating_mul(1 << times.min(6)).min(LONGEST_PAUSE);
                next.failure =
                    Some(Failure { fault: *fault, times: times + 1, retry: now + pause });
            }
        }
        next
    }

    fn replace(
        &mut self,
        value: &Arc<SecretValue>,
        stamp: Option<Stamp>,
        until: Option<Until>,
        now: Instant,
    ) {
        self.retired.retain(|retired| !same(&retired.value, value));
        match self.current.take() {
            Some(old) if same(&old.value, value) => {
                self.current = Some(Held { stamp, until, ..old });
            }
            old => {
                if let Some(old) = old {
                    self.retire(old.value, now + RETIRED_FOR);
                }
                self.current = Some(Held { value: value.clone(), stamp, until });
            }
        }
    }

    fn retire(&mut self, value: Arc<SecretValue>, until: Instant) {
        if self.retired.len() >= RETIRED_KEPT {
            self.retired.remove(0);
        }
        self.retired.push(Retired { value, until });
    }
}

/// Whether two values are one, in constant time for values of one length.
fn same(one: &Arc<SecretValue>, other: &Arc<SecretValue>) -> bool {
    Arc::ptr_eq(one, other) || one.expose().ct_eq(other.expose()).into()
}
