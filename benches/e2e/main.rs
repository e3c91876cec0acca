//! End-to-end performance harness: what one request costs the proxy, as a ratio to the floor.
//!
//! The same load runs against the same upstream through several *arms*, interleaved in one run:
//! straight, through a relay that copies bytes, through a relay that terminates TLS and originates
//! it again without reading what is inside (the floor), and through Tollgate. The proxy has core 0
//! for itself; load generator and upstream share core 1. `benches/README.md` says how to read it.
//!
//! - [`arm`]: what stands between client and upstream, and how it is started
//! - [`workload`]: what the client does, and in which unit it is counted
//! - [`load`]: the client, which refuses every answer but a 200
//! - [`account`]: CPU time and memory, as the kernel accounts them to the proxy process
//! - [`report`]: medians, ratios, table, JSON
//! - [`lab`]: the temporary folder, its certificates, and the child processes
//! - [`upstream`], [`relay`]: the roles that this binary plays when it starts itself again

#![expect(
    clippy::disallowed_methods,
    reason = "the harness dials and spawns for itself: no policy stands between it and loopback"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is its output")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::arm::Arm;
use crate::lab::Lab;
use crate::workload::Workload;

mod account;
mod arm;
mod lab;
mod load;
mod relay;
mod report;
mod rounds;
mod tls;
mod tollgate;
mod upstream;
mod workload;

/// Anything that ends an arm, and with it the run.
type Fault = Box<dyn Error + Send + Sync>;

/// The core of the proxy, and the core of load generator and upstream.
const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// Compares Tollgate with a straight connection, a TCP relay and a TLS relay (the floor).
#[derive(Parser, Debug)]
#[command(name = "e2e")]
struct Options {
    /// What stands between client and upstream.
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        value_delimiter = ',',
        default_value = "direct,tcp,tls,tollgate"
    )]
    arms: Vec<Arm>,
    /// What the client does.
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        value_delimiter = ',',
        default_value = "A,A1,B,C,D,D-plain,G,E,F"
    )]
    workloads: Vec<Workload>,
    /// How often each arm gets a window; the median over the rounds is reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// Length of a measured window.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    window_ms: u64,
    /// Load before each window that is not counted.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    warmup_ms: u64,
    /// How often a window is tried again while other processes disturb the proxy's core.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=20))]
    retries: u8,
    /// Idle connections held open by workload E.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(10..=1000))]
    idle_connections: u16,
    /// What the upstream offers by ALPN.
    #[arg(long, value_enum, default_value_t = Offer::Both)]
    upstream_alpn: Offer,
    /// A table for people or JSON for machines.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Passed by `cargo bench`; without meaning here.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Plays one part of the set-up; the harness starts itself again with it.
    #[command(hide = true, subcommand)]
    Role(Role),
}

#[derive(Subcommand, Debug)]
enum Role {
    /// Answers requests that carry the expected credential.
    Upstream(upstream::Options),
    /// Copies bytes.
    TcpRelay(relay::Options),
    /// Terminates TLS, originates it again, copies what is inside.
    TlsRelay(relay::Options),
}

/// The protocols that the upstream offers.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Both,
    H1,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.command {
        Some(Command::Role(role)) => play(role),
        None => run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("e2e: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: Role) -> Result<(), Fault> {
    let runtime = single_threaded()?;
    match role {
        Role::Upstream(options) => runtime.block_on(upstream::serve(&options)),
        Role::TcpRelay(options) => runtime.block_on(relay::tcp(&options)),
        Role::TlsRelay(options) => runtime.block_on(relay::tls(&options)),
    }
}

fn run(options: &Options) -> Result<(), Fault> {
    if cfg!(debug_assertions) {
        eprintln!("e2e: a debug build says nothing about speed; run `cargo bench --bench e2e`");
        return Ok(());
    }
    account::pin_to(LOAD_CORE)?;
    single_threaded()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Whichever ends first drops the other, and with it every child process.
        tokio::select! {
            done = measure(options) => done,
            _ = terminate.recv() => Err("terminated".into()),
            _ = interrupt.recv() => Err("interrupted".into()),
        }
    })
}

async fn measure(options: &Options) -> Result<(), Fault> {
    let lab = Lab::open(options.upstream_alpn)?;
    let plan = rounds::Plan {
        arms: &options.arms,
        workloads: &options.workloads,
        rounds: options.rounds,
        window: Duration::from_millis(options.window_ms),
        warmup: Duration::from_millis(options.warmup_ms),
        retries: options.retries,
        idle_connections: options.idle_connections,
    };
    let tables = rounds::run(&lab, &plan).await?;
    match options.format {
        Format::Table => print!("{}", report::as_text(&tables)),
        Format::Json => println!("{}", report::as_json(&tables)),
    }
    Ok(())
}

fn single_threaded() -> Result<tokio::runtime::Runtime, Fault> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
