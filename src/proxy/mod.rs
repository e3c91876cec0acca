//! The path of a request.
pub mod h1;
