//! From samples to what a person or a machine reads: medians, and ratios to the floor by round.

use std::time::Duration;

use serde_json::{Value, json};

use crate::arm::{Arm, FLOOR};
use crate::load::Sample;
use crate::workload::{Unit, Workload};

/// One workload.
pub(crate) struct Table {
    pub(crate) workload: Workload,
    pub(crate) rows: Vec<Row>,
}

/// One arm under one workload.
pub(crate) struct Row {
    arm: Arm,
    figures: Figures,
}

enum Figures {
    Windows(Vec<Sample>),
    Idle { kib_per_connection: f64, resident_kib: u64 },
    ColdStart { listening: Vec<Duration>, first_answer: Vec<Duration> },
}

impl Row {
    pub(crate) fn windows(arm: Arm) -> Self {
        Self { arm, figures: Figures::Windows(Vec::new()) }
    }

    pub(crate) fn idle(arm: Arm, kib_per_connection: f64, resident_kib: u64) -> Self {
        Self { arm, figures: Figures::Idle { kib_per_connection, resident_kib } }
    }

    pub(crate) fn cold_start(arm: Arm) -> Self {
        let figures = Figures::ColdStart { listening: Vec::new(), first_answer: Vec::new() };
        Self { arm, figures }
    }

    pub(crate) fn push(&mut self, sample: Sample) {
        if let Figures::Windows(samples) = &mut self.figures {
            samples.push(sample);
        }
    }

    pub(crate) fn push_start(&mut self, until_listening: Duration, until_answer: Duration) {
        if let Figures::ColdStart { listening, first_answer } = &mut self.figures {
            listening.push(until_listening);
            first_answer.push(until_answer);
        }
    }

    /// The cost in each round; empty where there is no proxy.
    fn costs(&self) -> Vec<f64> {
        match &self.figures {
            Figures::Windows(samples) => samples.iter().filter_map(|sample| sample.cost).collect(),
            Figures::Idle { .. } | Figures::ColdStart { .. } => Vec::new(),
        }
    }
}

/// Median, least and greatest of one figure over the rounds.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get(values.len().saturating_sub(1) / 2)?;
        let (least, greatest) = (*values.first()?, *values.last()?);
        Some(Self { median: (lower + upper) / 2.0, least, greatest })
    }

    fn as_json(self) -> Value {
        json!({ "median": round(self.median), "min": round(self.least), "max": round(self.greatest) })
    }
}

/// The tables for people.
pub(crate) fn as_text(tables: &[Table]) -> String {
    let lines = tables.iter().flat_map(|table| {
        let title = [String::new(), table.workload.to_string(), heading(table.workload)];
        let rows = table.rows.iter().map(|row| format!("  {:<10}{}", row.arm, cells(table, row)));
        title.into_iter().chain(rows)
    });
    lines.map(|line| line + "\n").collect()
}

/// The same for machines: workload, arm, figures.
pub(crate) fn as_json(tables: &[Table]) -> Value {
    let tables = tables.iter().map(|table| {
        let arms = table.rows.iter().map(|row| (row.arm.to_string(), row_as_json(table, row)));
        json!({
            "workload": table.workload.to_string(),
            "costUnit": cost_unit(table.workload),
            "arms": arms.collect::<serde_json::Map<_, _>>(),
        })
    });
    Value::Array(tables.collect())
}

fn heading(workload: Workload) -> String {
    if workload.unit() == Unit::Connection {
        return format!("  {:<10}{:>12}{:>14}", "", "KiB/conn", "RSS before");
    }
    if workload.unit() == Unit::Start {
        return format!("  {:<10}{:>12}{:>14}", "", "listens ms", "first 200 ms");
    }
    let speed = if workload.unit() == Unit::Gibibyte { "GiB/s" } else { "per s" };
    let (cost, range) = (cost_unit(workload), "min-max");
    format!(
        "  {:<10}{cost:>12}{:>8}{range:>15}{:>10}{:>10}{speed:>12}{:>9}",
        "", "/floor", "p50 us", "p99 us", "noise %"
    )
}

fn cells(table: &Table, row: &Row) -> String {
    match &row.figures {
        Figures::Windows(samples) => {
            let cost = or_dash(Spread::of(row.costs()), |cost| figure(cost.median));
            let ratio = ratio_to_floor(table, row);
            let times = or_dash(ratio, |ratio| format!("{:.2}", ratio.median));
            let range = or_dash(ratio, |ratio| format!("{:.2}-{:.2}", ratio.least, ratio.greatest));
            let latency = |of: fn(&Sample) -> u32| median(samples, |sample| f64::from(of(sample)));
            format!(
                "{cost:>12}{times:>8}{range:>15}{:>10.0}{:>10.0}{:>12}{:>9.1}",
                latency(|sample| sample.p50_us),
                latency(|sample| sample.p99_us),
                figure(median(samples, |sample| sample.per_second)),
                100.0 * median(samples, |sample| sample.noise),
            )
        }
        Figures::Idle { kib_per_connection, resident_kib } => {
            format!("{kib_per_connection:>12.1}{resident_kib:>10} KiB")
        }
        Figures::ColdStart { listening, first_answer } => {
            let ms = |times: &[Duration]| median(times, |time| time.as_secs_f64() * 1e3);
            format!("{:>12.1}{:>14.1}", ms(listening), ms(first_answer))
        }
    }
}

fn row_as_json(table: &Table, row: &Row) -> Value {
    match &row.figures {
        Figures::Windows(samples) => json!({
            "cost": Spread::of(row.costs()).map(Spread::as_json),
            "ratioToFloor": ratio_to_floor(table, row).map(Spread::as_json),
            "p50us": median(samples, |sample| f64::from(sample.p50_us)),
            "p99us": median(samples, |sample| f64::from(sample.p99_us)),
            "noise": round(median(samples, |sample| sample.noise)),
            "perSecond": round(median(samples, |sample| sample.per_second)),
            "costByRound": row.costs().into_iter().map(round).collect::<Vec<_>>(),
        }),
        Figures::Idle { kib_per_connection, resident_kib } => json!({
            "kibPerConnection": round(*kib_per_connection),
            "residentKibBefore": resident_kib,
        }),
        Figures::ColdStart { listening, first_answer } => {
            let ms = |times: &[Duration]| {
                Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3)).map(Spread::as_json)
            };
            json!({ "listeningMs": ms(listening), "firstAnswerMs": ms(first_answer) })
        }
    }
}

/// Cost over the floor's cost in the same round, then the median of those ratios.
fn ratio_to_floor(table: &Table, row: &Row) -> Option<Spread> {
    let floor = table.rows.iter().find(|row| row.arm == FLOOR)?.costs();
    Spread::of(row.costs().iter().zip(&floor).map(|(cost, floor)| cost / floor))
}

fn cost_unit(workload: Workload) -> &'static str {
    match workload.unit() {
        Unit::Operation => "CPU us/op",
        Unit::Gibibyte => "CPU s/GiB",
        Unit::Connection => "KiB",
        Unit::Start => "ms",
    }
}

fn median<T>(items: &[T], of: impl Fn(&T) -> f64) -> f64 {
    Spread::of(items.iter().map(of)).map_or(f64::NAN, |spread| spread.median)
}

fn or_dash(spread: Option<Spread>, text: impl Fn(Spread) -> String) -> String {
    spread.map_or_else(|| "-".to_owned(), text)
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
