//! Logs: to stderr, for people. What must be recorded goes to the audit, which no filter drops.

use std::panic::Location;

use tracing_subscriber::EnvFilter;

/// Sets the process's logs up: `TOLLGATE_LOG` filters as `RUST_LOG` does (default `warn`); `TOLLGATE_LOG_FORMAT=json` for machines.
pub fn init() {
    let filter =
        EnvFilter::try_from_env("TOLLGATE_LOG").unwrap_or_else(|_error| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if std::env::var("TOLLGATE_LOG_FORMAT").is_ok_and(|format| format == "json") {
        subscriber.json().try_init()
    } else {
        subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
    };
    if installed.is_err() {
        tracing::debug!("logs were set up before");
    }
    std::panic::set_hook(Box::new(|panic| report(panic.location())));
}

/// Says where a panic was. Its message stays unsaid: a library's may quote what it was working on.
fn report(location: Option<&Location<'_>>) {
    match location {
        Some(location) => tracing::error!(%location, "panicked"),
        None => tracing::error!("panicked"),
    }
}
