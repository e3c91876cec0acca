//! What every promise is tested with: a real Tollgate in this process, upstreams on loopback, and a sandbox that speaks to it.
//!
//! ```text
//! let upstream = Upstream::https("api.example.com").await;
//! let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
//! let answer = tollgate.sandbox("sb-test").get("https://api.example.com/").await;
//! tollgate.finish().await;
//! ```
//!
//! In a policy, `$NAME` stands for a fresh real value, which [`Tollgate::value`] gives. [`Tollgate::finish`] asserts that no real value is in
//! a log line, an audit line or a byte that reached the sandbox, that values reached granted upstreams only, and that nothing logged ERROR.

mod attack;
mod authority;
pub(crate) mod cut;
mod dns;
mod expand;
mod h2_frames;
pub(crate) mod names;
pub(crate) mod namespace;
mod program;
mod recorded;
mod sandbox;
mod tollgate;
mod upstream;
pub(crate) mod watch;

pub(crate) use attack::{Attack, Outcome, P0, exchange};
pub(crate) use authority::{pem as authority_pem, pem_files as certificate_files};
pub(crate) use dns::DnsStub;
pub(crate) use h2_frames::Frames;
pub(crate) use h2_frames::{Received, block, received};
pub(crate) use program::Program;
pub(crate) use recorded::Stream;
pub(crate) use sandbox::{
    Answer, Connection, Protocol, RequestBody, Sandbox, full, read_all, read_answer, streamed,
};
pub(crate) use tollgate::{Tollgate, fresh_value, merge};
pub(crate) use upstream::{Body, Builder, RequestRecord, Upstream, body, empty, read_request};

/// How long a test waits for what must come.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// Looks again and again until it is there, at most [`SOON`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
