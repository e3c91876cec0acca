//! What the kernel accounts to a process: CPU time and resident memory, read from `/proc` by pid.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Fault;

/// Pins the calling thread, and every process it starts from here on, to one core.
pub(crate) fn pin_to(core: usize) -> Result<(), Fault> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores)
        .map_err(|error| format!("cannot pin to core {core}: {error}; two cores are needed").into())
}

/// CPU time of a process so far.
#[derive(Debug)]
pub(crate) struct CpuReading {
    /// Nanoseconds by thread: exact, but a thread takes its time with it when it ends.
    threads: BTreeMap<String, u64>,
    /// User and system time of all threads that ever were, in ticks of 10 ms.
    ticks: u64,
}

impl CpuReading {
    pub(crate) fn of(pid: u32) -> Result<Self, Fault> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // A thread may end between the listing and the reading.
            let Ok(line) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let nanos = line.split(' ').next().unwrap_or_default().parse()?;
            threads.insert(entry.file_name().to_string_lossy().into_owned(), nanos);
        }
        Ok(Self { threads, ticks: ticks(pid)? })
    }

    /// CPU time between an earlier reading and this one.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let thread_ended = earlier.threads.keys().any(|id| !self.threads.contains_key(id));
        if thread_ended {
            return Duration::from_millis(10 * self.ticks.saturating_sub(earlier.ticks));
        }
        let total = |reading: &Self| reading.threads.values().sum::<u64>();
        Duration::from_nanos(total(self).saturating_sub(total(earlier)))
    }
}

/// Time that one core has been at work, or withheld by the host, whoever it worked for.
pub(crate) fn core_time(core: usize) -> Result<Duration, Fault> {
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name)).ok_or("no such core")?;
    let fields: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    // user nice system (idle iowait) irq softirq steal
    let busy = fields.iter().take(3).chain(fields.iter().skip(5).take(3)).sum::<u64>();
    Ok(Duration::from_millis(10 * busy))
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<u64, Fault> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    Ok(kib.ok_or("no VmRSS in the status of the process")?.parse()?)
}

/// `utime` and `stime` of `/proc/PID/stat`; the command's name before them may hold spaces.
fn ticks(pid: u32) -> Result<u64, Fault> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("malformed stat of the process")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || times.next().ok_or("short stat of the process");
    Ok(next()?.parse::<u64>()? + next()?.parse::<u64>()?)
}
