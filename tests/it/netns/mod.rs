//! Containment by the rules of `deploy/`, tried from the sandbox: what is allowed arrives with the real value, and nothing else leaves.
//!
//! Needs root and `nft`; `tests/run` has both. Without them a test says that it was left out.

mod namespace;
mod rig;

/// What is carried: names, families, ports, and the story of a denial.
mod carried;
/// Clients that people use, one test each.
mod clients;
/// What must not leave, and who must not be reached.
mod contained;
/// What the doctor says of a gateway.
mod doctor;
/// A pod with its sidecar.
mod sidecar;
/// Long and large streams, and many at once.
mod streams;

use rig::{Rig, Way};

/// Both sandboxes have the same host in their allowlist; only A has the secret, and only B the other host.
const STORES: &str = r#"
secretStores:
  sb-a:
    egressAllowlist: [api.example.com, "api.example.com:8443", rebound.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
  sb-b:
    egressAllowlist: [other.example.com]
"#;
