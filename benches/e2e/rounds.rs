//! The run: every arm gets one window per round, so that a noisy moment hits all of them alike.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::arm::{Arm, Running};
use crate::lab::Lab;
use crate::load::h1::Connection;
use crate::load::{self, Meter, Sample};
use crate::report::{Row, Table};
use crate::workload::{Unit, Workload};
use crate::{Fault, account};

/// Time for the last connections to be set up or to go before memory is read.
const MEMORY_SETTLE: Duration = Duration::from_millis(500);

/// A window is quiet if others had no more than this share of the proxy's core.
const QUIET: f64 = 0.05;

/// What to run.
pub(crate) struct Plan<'a> {
    pub(crate) arms: &'a [Arm],
    pub(crate) workloads: &'a [Workload],
    pub(crate) rounds: u8,
    pub(crate) window: Duration,
    pub(crate) warmup: Duration,
    pub(crate) retries: u8,
    pub(crate) idle_connections: u16,
}

/// Runs the plan, one table for each workload; progress goes to stderr.
pub(crate) async fn run(lab: &Lab, plan: &Plan<'_>) -> Result<Vec<Table>, Fault> {
    let mut tables = Vec::new();
    let mut running = Vec::new();
    for &workload in plan.workloads {
        eprintln!("{workload}");
        let rows = match workload.unit() {
            Unit::Connection => idle(lab, plan).await?,
            Unit::Start => cold_start(lab, plan).await?,
            Unit::Operation | Unit::Gibibyte => {
                if running.is_empty() {
                    running = start_all(lab, plan)?;
                }
                interleave(&running, workload, plan).await?
            }
        };
        tables.push(Table { workload, rows });
    }
    Ok(tables)
}

fn start_all(lab: &Lab, plan: &Plan<'_>) -> Result<Vec<Running>, Fault> {
    plan.arms.iter().map(|&arm| Running::start(arm, lab)).collect()
}

async fn interleave(
    running: &[Running],
    workload: Workload,
    plan: &Plan<'_>,
) -> Result<Vec<Row>, Fault> {
    let mut rows: Vec<Row> = running.iter().map(|running| Row::windows(running.arm)).collect();
    for _ in 0..plan.rounds {
        for (running, row) in running.iter().zip(&mut rows) {
            let sample = quietest(running, workload, plan).await;
            row.push(sample.map_err(|fault| format!("{}: {fault}", running.arm))?);
        }
    }
    Ok(rows)
}

/// One window; a noisy one is tried again, and the least noisy of them counts.
async fn quietest(running: &Running, workload: Workload, plan: &Plan<'_>) -> Result<Sample, Fault> {
    let mut best = load::measure(running, workload, plan.warmup, plan.window).await?;
    for _ in 0..plan.retries {
        if best.noise <= QUIET {
            break;
        }
        let again = load::measure(running, workload, plan.warmup, plan.window).await?;
        if again.noise < best.noise {
            best = again;
        }
    }
    Ok(best)
}

/// Memory of idle connections, in a process that has done nothing else.
async fn idle(lab: &Lab, plan: &Plan<'_>) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for &arm in plan.arms.iter().filter(|arm| **arm != Arm::Direct) {
        let running = Running::start(arm, lab)?;
        let Some(pid) = running.pid() else { continue };
        // What is paid once, whatever the number of connections, is not counted.
        drop(hold(&running, 10).await?);
        sleep(MEMORY_SETTLE).await;
        let before = account::resident_kib(pid)?;
        let held = hold(&running, plan.idle_connections).await?;
        sleep(MEMORY_SETTLE).await;
        let after = account::resident_kib(pid)?;
        drop(held);
        let growth = after.saturating_sub(before) as f64;
        rows.push(Row::idle(arm, growth / f64::from(plan.idle_connections), before));
    }
    Ok(rows)
}

async fn hold(running: &Running, count: u16) -> Result<Vec<Connection>, Fault> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(first_answer(running).await?);
    }
    Ok(held)
}

/// Time from the start of the process until it listens, and until the first 200 has been read.
async fn cold_start(lab: &Lab, plan: &Plan<'_>) -> Result<Vec<Row>, Fault> {
    let arms: Vec<Arm> = plan.arms.iter().copied().filter(|arm| *arm != Arm::Direct).collect();
    let mut rows: Vec<Row> = arms.iter().map(|&arm| Row::cold_start(arm)).collect();
    for &arm in &arms {
        // The first start makes files that later ones find, and warms the page cache.
        first_answer(&Running::start(arm, lab)?).await?;
    }
    for _ in 0..plan.rounds {
        for (&arm, row) in arms.iter().zip(&mut rows) {
            let started = Instant::now();
            let running = Running::start(arm, lab)?;
            let listening = started.elapsed();
            first_answer(&running).await?;
            row.push_start(listening, started.elapsed());
        }
    }
    Ok(rows)
}

/// One request over a connection of its own, which is returned open.
async fn first_answer(running: &Running) -> Result<Connection, Fault> {
    let (workload, target) = (Workload::KeepAlive, &running.target);
    let request = workload.request(&target.authorization);
    let mut connection = Connection::open(target, &target.h1, workload.host()).await?;
    connection.exchange(&request, &Meter::default()).await?;
    Ok(connection)
}
