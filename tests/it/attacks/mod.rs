//! Hostile cases, one module per area; a test is found by the case's id. They stand for classes: others of the same kind are tried too.
//!
//! `COVERAGE.md` beside this file says which test holds which case; `coverage` keeps it true.
#![expect(non_snake_case, reason = "a test carries the id of its case")]

mod authority_mismatch;
mod ca_and_key_material;
mod coverage;
mod dns_responder;
mod harness;
mod helpers;
mod host_matching;
mod http1_parsing_smuggling;
mod http2;
mod logging;
mod network_destination_ssrf;
mod oracles;
mod policy_file;
mod reflection;
mod sandbox_identity;
mod substitution;
mod tls_client_side;
mod wire;
