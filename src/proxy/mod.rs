//! The path of a request, one module per step.

pub mod tls;
