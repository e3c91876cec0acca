//! The load generator: keeps a target busy and reads the proxy's CPU time around a window.
//!
//! It runs in the harness itself, on the core that it shares with the upstream. An answer other
//! than 200, or a connection that breaks, ends the arm: no number is made from failed requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::account::{self, CpuReading};
use crate::arm::Running;
use crate::workload::{POST_LENGTH, Style, Unit, Workload};
use crate::{Fault, PROXY_CORE};

pub(crate) mod h1;
mod h2;

/// Latencies kept of one window; later ones are dropped.
const LATENCIES: usize = 1 << 20;
/// Time for a proxy to notice that the connections of a window are gone.
const SETTLE: Duration = Duration::from_millis(60);

/// What one window of one arm gave.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// CPU microseconds of the proxy per operation or CPU seconds per GiB; none without a proxy.
    pub(crate) cost: Option<f64>,
    pub(crate) per_second: f64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    /// Share of the proxy's core that went to anything else: other processes, the host.
    pub(crate) noise: f64,
}

/// Puts one arm under load: a warm-up, then a window that counts.
pub(crate) async fn measure(
    running: &Running,
    workload: Workload,
    warmup: Duration,
    window: Duration,
) -> Result<Sample, Fault> {
    let meter = Arc::new(Meter::default());
    let mut clients = JoinSet::new();
    for _ in 0..workload.connections() {
        let (target, meter) = (running.target.clone(), Arc::clone(&meter));
        match workload.style() {
            Style::KeepAlive => clients.spawn(h1::run(target, workload, meter)),
            Style::Anew => clients.spawn(h1::run_anew(target, workload, meter)),
            Style::Streams(streams) => clients.spawn(h2::run(target, workload, streams, meter)),
        };
    }
    sleep_while(&mut clients, warmup).await?;
    let cpu = || running.pid().map(CpuReading::of).transpose();
    let core_before = account::core_time(PROXY_CORE)?;
    let (before, started) = (cpu()?, Instant::now());
    meter.restart();
    sleep_while(&mut clients, window).await?;
    let (after, elapsed) = (cpu()?, started.elapsed());
    let core = account::core_time(PROXY_CORE)?.saturating_sub(core_before);
    let spent = after.zip(before).map(|(after, before)| after.since(&before));
    let others = core.saturating_sub(spent.unwrap_or_default());
    let noise = others.as_secs_f64() / elapsed.as_secs_f64();
    let sample = meter.sample(workload, spent, elapsed, noise);
    clients.shutdown().await;
    sleep(SETTLE).await;
    sample
}

/// Sleeps, unless a client ends: they only end by failing.
async fn sleep_while(
    clients: &mut JoinSet<Result<(), Fault>>,
    duration: Duration,
) -> Result<(), Fault> {
    tokio::select! {
        () = sleep(duration) => Ok(()),
        Some(ended) = clients.join_next() => Err(match ended {
            Ok(Ok(())) => "a client stopped".into(),
            Ok(Err(fault)) => fault,
            Err(panicked) => panicked.into(),
        }),
    }
}

/// What the clients have done since the window began.
#[derive(Default)]
pub(crate) struct Meter {
    operations: AtomicU64,
    received: AtomicU64,
    latencies: Mutex<Vec<u32>>,
}

impl Meter {
    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn operation(&self, since: Instant) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        if latencies.len() < LATENCIES {
            latencies.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn restart(&self) {
        self.operations.store(0, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        *latencies = Vec::with_capacity(1 << 18);
    }

    fn sample(
        &self,
        workload: Workload,
        spent: Option<Duration>,
        elapsed: Duration,
        noise: f64,
    ) -> Result<Sample, Fault> {
        let operations = self.operations.load(Ordering::Relaxed) as f64;
        let received = self.received.load(Ordering::Relaxed) as f64;
        let posted = operations * POST_LENGTH as f64;
        let bytes = if workload == Workload::Post { posted } else { received };
        let gibibytes = bytes / f64::from(1 << 30);
        let (count, scale) = match workload.unit() == Unit::Gibibyte {
            true => (gibibytes, 1.0),
            false => (operations, 1e6),
        };
        let cost = spent.map(|cpu| cpu.as_secs_f64() * scale / count);
        if count == 0.0 {
            return Err("nothing was answered within the window".into());
        }
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.sort_unstable();
        let per_mille = |part: usize| {
            latencies.get(latencies.len().saturating_sub(1) * part / 1000).copied().unwrap_or(0)
        };
        Ok(Sample {
            cost,
            per_second: count / elapsed.as_secs_f64(),
            p50_us: per_mille(500),
            p99_us: per_mille(990),
            noise,
        })
    }
}
