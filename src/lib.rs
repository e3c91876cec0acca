//! Tollgate, an egress secrets proxy for sandboxes that run untrusted code.

pub mod audit;
pub mod cli;
pub mod config;
pub mod control;
pub mod environment;
pub mod host;
pub mod introspect;
pub mod metrics;
pub mod policies;
pub mod policy;
pub mod process;
pub mod proxy;
pub mod reload;
pub mod secret;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod stores;
pub mod telemetry;
pub mod trust;
