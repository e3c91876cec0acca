//! Tollgate, an egress secrets proxy for sandboxes that run untrusted code.

pub mod audit;
pub mod cli;
pub mod environment;
pub mod host;
pub mod introspect;
pub mod policy;
pub mod proxy;
pub mod secret;
pub mod session;
pub mod shutdown;
pub mod stores;
