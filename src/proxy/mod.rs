//! The path of a request, one file per step.

pub mod h1;
pub mod tls;
