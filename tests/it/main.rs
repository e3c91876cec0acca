//! Promises of the product, kept on real sockets.

mod attacks;
mod cli;
mod readme;
