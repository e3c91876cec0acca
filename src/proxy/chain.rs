//! Step 9 where a corporate proxy stands before the Internet: a CONNECT to it (RFC 9110 §9.3.6), and then its bytes are the upstream's.
//!
//! That proxy resolves the name, so its address cannot be checked here: IP literals are checked all the same, names that only a private
//! network knows are refused (`policy::decide_unresolved`), and internal addresses of other names are the corporate proxy's to refuse.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::h1::{HeadLimits, status_of_head};
use crate::host::{Destination, HostPattern, HostSet};
use crate::policy::{Denial, DenyReason};
use crate::stores::LiveSecret;

/// The proxy through which upstreams are reached.
#[derive(Debug)]
pub struct UpstreamProxy {
    address: Destination,
    credentials: Option<Arc<LiveSecret>>,
    direct: HostSet<()>,
}

impl UpstreamProxy {
    /// With `user:password` credentials, if it wants any, and the hosts that are reached without it.
    #[must_use]
    pub fn new(
        address: Destination,
        credentials: Option<Arc<LiveSecret>>,
        direct: &[HostPattern],
    ) -> Self {
        let mut hosts = HostSet::new();
        for pattern in direct {
            hosts.insert(pattern, ());
        }
        Self { address, credentials, direct: hosts }
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> &Destination {
        &self.address
    }

    /// Whether a destination is reached through it.
    pub(super) fn carries(&self, destination: &Destination) -> bool {
        self.direct.matching_port(&destination.host, destination.port).next().is_none()
    }

    /// Asks for a tunnel on a connection to it. Afterwards the connection is one to the destination.
    pub(super) async fn open(
        &self,
        tcp: &mut TcpStream,
        destination: &Destination,
    ) -> Result<(), Denial> {
        let mut head = Zeroizing::new(Vec::with_capacity(LONGEST_REQUEST));
        let start = format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n");
        head.extend_from_slice(start.as_bytes());
        self.authorise(&mut head, destination).await?;
        head.extend_from_slice(b"\r\n");
        let broken =
            |_error| unreachable(destination, "the connection to the upstream proxy broke");
        tcp.write_all(&head).await.map_err(broken)?;
        match read_status(tcp).await {
            Ok(200..=299) => Ok(()),
            Ok(407) => Err(unreachable(destination, "the upstream proxy wants other credentials")),
            Ok(status) => {
                let why = format!("the upstream proxy answered {status}");
                Err(unreachable(destination, &why))
            }
            Err(why) => Err(unreachable(destination, why)),
        }
    }

    async fn authorise(
        &self,
        head: &mut Zeroizing<Vec<u8>>,
        destination: &Destination,
    ) -> Result<(), Denial> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let value = credentials.value().await.map_err(|_error| {
            unreachable(destination, "the upstream proxy's credentials are not there")
        })?;
        if !is_user_and_password(value.expose()) {
            return Err(unreachable(
                destination,
                "the upstream proxy's credentials cannot be sent",
            ));
        }
        head.extend_from_slice(b"Proxy-Authorization: Basic ");
        head.extend_from_slice(Zeroizing::new(STANDARD.encode(value.expose())).as_bytes());
        head.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Whether a value is the credentials of RFC 7617: a name, a colon, a password, without control bytes.
#[must_use]
pub fn is_user_and_password(value: &[u8]) -> bool {
    value.len() <= LONGEST_CREDENTIALS
        && value.iter().position(|&byte| byte == b':').is_some_and(|at| at > 0)
        && !value.iter().any(u8::is_ascii_control)
}

/// An upstream that the corporate proxy does not lead to; what the sandbox reads does not name that proxy.
pub(super) fn unreachable(destination: &Destination, why: &str) -> Denial {
    Denial::new(
        DenyReason::UpstreamUnreachable,
        format!("{destination} cannot be connected to: {why}"),
        "the policy allows it; an operator would check upstream.proxy, then try again",
    )
}

/// So many bytes of credentials are sent.
const LONGEST_CREDENTIALS: usize = 4_096;
/// A destination twice, and credentials in base64; so that the buffer never moves and leaves a copy.
const LONGEST_REQUEST: usize = 8_192;
/// How large the head of the answer may be.
const ANSWER: HeadLimits = HeadLimits { head_bytes: 8_192, target_bytes: 0, fields: 100 };

/// The status of the answer. What follows the head of a success comes before the upstream was sent anything, and so is not the upstream's.
async fn read_status(tcp: &mut TcpStream) -> Result<u16, &'static str> {
    let mut answer = Vec::with_capacity(1024);
    loop {
        let read = tcp.read_buf(&mut answer).await;
        if read.map_err(|_error| "the connection to the upstream proxy broke")? == 0 {
            return Err("the upstream proxy closed the connection");
        }
        let refused = "the upstream proxy answered what is not HTTP/1";
        match status_of_head(&answer, &ANSWER).map_err(|_refusal| refused)? {
            None => {}
            Some((200..=299, length)) if length < answer.len() => {
                return Err("the upstream proxy sent more than an answer");
            }
            Some((status, _)) => return Ok(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_password() {
        for good in ["user:password", "user:", "u:p:q", "corp\\user:pä"] {
            assert!(is_user_and_password(good.as_bytes()), "{good}");
        }
        for bad in ["", "user", ":password", "user:pass\nword", "user:\0"] {
            assert!(!is_user_and_password(bad.as_bytes()), "{bad:?}");
        }
    }
}
