//! Tollgate, an egress secrets proxy for sandboxes that run untrusted code.
//!
//! The sandbox holds sealed tokens ([`secret::SealedToken`]); the real credentials ([`secret::SecretValue`]) live only here. Every request
//! that leaves the sandbox is decided against one immutable policy ([`policy::EffectivePolicy`]), its tokens become values where that policy
//! binds them, and a value that comes back in the answer becomes its token again.
//!
//! # The path of a request
//!
//! [`proxy`] is the path as code, one file per step: accept → identify → destination → **decide** → terminate TLS → parse → **decide** →
//! substitute → sign → connect → forward → scrub → record. What carries it from step to step:
//!
//! 1. [`proxy::Client`]: an accepted connection.
//! 2. [`session::Recognised`]: its sandbox, and by what it was recognised.
//! 3. [`host::Destination`]: where it wants to go, canonical.
//! 4. [`policy::decide_connect`] → [`policy::ConnectPermit`], or a [`policy::Denial`].
//! 5. [`proxy::tls::leaf`]: a certificate for exactly that host.
//! 6. [`proxy::h1`]: what HTTP/1 a peer may speak; HTTP/2 is read by its library.
//! 7. [`policy::decide_request`] → [`policy::RequestPermit`], for every request anew.
//! 8. [`session::Session`]: which token stands for which secret, and [`stores::LiveSecret`] for its value.
//! 9. [`policy::decide_address`] → [`host::address::CheckedAddr`], which [`proxy::Connector`] dials.
//! 10. [`proxy::Upstreams`]: the upstream connections of one sandbox.
//! 11. [`secret::Needles`]: what the answer is searched for.
//! 12. [`audit::Event`]: one line, whatever happened.
//!
//! # The modules
//!
//! - [`proxy`]: the path.
//! - [`dns`]: how names lead to it.
//! - [`audit`]: where it ends.
//! - [`policy`]: what is allowed; [`policies`] puts files into force.
//! - [`host`], [`secret`], [`session`], [`stores`]: hosts, secrets, live sandboxes, and where values come from.
//! - [`introspect`], [`environment`], [`trust`]: what a sandbox is told, and what it is given to trust.
//! - [`control`], [`metrics`]: what an operator is told.
//! - [`isolate`]: a command in name spaces of its own, whose only way out is Tollgate.
//! - [`config`], [`server`], [`activation`], [`reload`], [`shutdown`], [`process`], [`telemetry`]: one running Tollgate.
//! - [`cli`]: the commands.

pub mod activation;
pub mod audit;
pub mod cli;
pub mod config;
pub mod control;
pub mod dns;
pub mod environment;
pub mod host;
pub mod introspect;
pub mod isolate;
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
