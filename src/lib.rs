//! Tollgate, an egress secrets proxy for sandboxes that run untrusted code.

pub mod cli;
pub mod config;
pub mod host;
pub mod policy;
pub mod proxy;
pub mod secret;
pub mod shutdown;
pub mod stores;
