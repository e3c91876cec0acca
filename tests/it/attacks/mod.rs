//! Hostile cases, one module per area; a test is found by the case's id. They stand for classes: others of the same kind are tried too.
#![expect(non_snake_case, reason = "a test carries the id of its case")]

mod authority_mismatch;
mod harness;
mod helpers;
mod host_matching;
mod policy_file;
mod tls_client_side;
