//! The decision's answer: a permit that only the decision can make, or a denial with one typed reason.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::effective::{BoundSecret, EffectivePolicy, RuleName};
use crate::host::{Destination, Scheme};

/// Allow with proof, or deny with one reason.
#[derive(Debug)]
#[must_use]
pub enum Verdict<P> {
    /// Allowed; the permit is what later steps ask for.
    Allow(P),
    /// Denied, and why.
    Deny(Denial),
}

impl<P> Verdict<P> {
    /// The permit, or the denial as the error of a `?`.
    pub fn permit(self) -> Result<P, Denial> {
        match self {
            Self::Allow(permit) => Ok(permit),
            Self::Deny(denial) => Err(denial),
        }
    }
}

/// Proof that a connection to this destination may be opened, and TLS be terminated in its name.
///
/// ```compile_fail
/// use tollgate::{host::Destination, policy::ConnectPermit};
/// fn forged(destination: Destination) -> ConnectPermit {
///     ConnectPermit { destination, rule: None }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ConnectPermit {
    pub(super) destination: Destination,
    pub(super) rule: Option<RuleName>,
}

impl ConnectPermit {
    /// The destination that was decided.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The rule that allowed it; none where no layer has an allowlist.
    #[must_use]
    pub const fn rule(&self) -> Option<&RuleName> {
        self.rule.as_ref()
    }
}

/// Proof that one request may be sent: what `substitute`, `connect` and `forward` ask for.
///
/// ```compile_fail
/// use tollgate::policy::RequestPermit;
/// fn forged(given: RequestPermit) -> RequestPermit {
///     RequestPermit { ..given }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RequestPermit {
    pub(super) policy: Arc<EffectivePolicy>,
    pub(super) destination: Destination,
    pub(super) scheme: Scheme,
    pub(super) rule: Option<RuleName>,
    pub(super) opened_by_name: bool,
    pub(super) secrets: Vec<Arc<BoundSecret>>,
    pub(super) injected: Vec<Arc<BoundSecret>>,
    pub(super) restricts_request: bool,
    pub(super) scrubs: bool,
}

impl RequestPermit {
    /// The destination that was decided; the only one that may be dialled.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The scheme that was decided.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The rule that allowed it; none where no layer has an allowlist.
    #[must_use]
    pub const fn rule(&self) -> Option<&RuleName> {
        self.rule.as_ref()
    }

    /// The secrets bound to this destination. Over plain HTTP they are named here but never opened.
    #[must_use]
    pub fn secrets(&self) -> &[Arc<BoundSecret>] {
        &self.secrets
    }

    /// The bound secrets that the proxy itself adds to this request (method and path included; never over plain HTTP).
    #[must_use]
    pub fn injected(&self) -> &[Arc<BoundSecret>] {
        &self.injected
    }

    /// Whether a part of an answer may be asked for. Where values travel, one could be read piece by piece, each too short to be found.
    #[must_use]
    pub fn admits_parts(&self) -> bool {
        !self.secrets.iter().any(|secret| secret.travels())
    }

    /// Whether the rule that allowed it looks at methods or paths, so that nothing in the request may claim others.
    #[must_use]
    pub const fn restricts_request(&self) -> bool {
        self.restricts_request
    }

    /// Whether the answer is searched for values; never where no secret is bound.
    #[must_use]
    pub const fn scrubs(&self) -> bool {
        self.scrubs && !self.secrets.is_empty()
    }

    /// The policy that decided.
    #[must_use]
    pub const fn policy(&self) -> &Arc<EffectivePolicy> {
        &self.policy
    }
}

/// Defines the reasons and their names on the wire in one table.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// Why something was refused; the names are those of answers, audit and `explain`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DenyReason { $($(#[$doc])* $variant,)* }

        impl DenyReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status that an HTTP client is answered with, where the denial does not say more exactly.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The title of the problem document.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    /// No allowlist entry names the host.
    HostNotAllowed = "host_not_allowed", 403, "Host not allowed";
    /// Entries name the host, none with this port.
    PortNotAllowed = "port_not_allowed", 403, "Port not allowed";
    /// Entries name the host and port, none with this scheme.
    SchemeNotAllowed = "scheme_not_allowed", 403, "Scheme not allowed";
    /// Entries name the host, none with this method; or a method that is never carried.
    MethodNotAllowed = "method_not_allowed", 403, "Method not allowed";
    /// Entries name the host, none with this path.
    PathNotAllowed = "path_not_allowed", 403, "Path not allowed";
    /// A deny pattern of a layer or of the operator.
    HostDenied = "host_denied", 403, "Host denied";
    /// CONNECT target, SNI and authority do not agree.
    HostMismatch = "host_mismatch", 421, "Misdirected request";
    /// The name resolves to an internal address, or the destination is one.
    AddressNotAllowed = "address_not_allowed", 403, "Address not allowed";
    /// Not HTTP as it is carried here, or malformed.
    ProtocolNotAllowed = "protocol_not_allowed", 400, "Protocol not allowed";
    /// A sealed token towards a host or place that it is not bound to, or one of another sandbox.
    SecretMisdirected = "secret_misdirected", 403, "Secret misdirected";
    /// A real value in a request of the sandbox.
    SecretExposed = "secret_exposed", 403, "Secret exposed";
    /// A sealed token over plain HTTP.
    SecretRequiresTls = "secret_requires_tls", 403, "Secret requires TLS";
    /// The value cannot be fetched.
    SecretUnavailable = "secret_unavailable", 503, "Secret unavailable";
    /// Nobody knows which sandbox this is.
    SandboxUnknown = "sandbox_unknown", 407, "Sandbox unknown";
    /// The sandbox was ended or has expired.
    SessionExpired = "session_expired", 407, "Session expired";
    /// A bound on size, number, rate or time.
    LimitExceeded = "limit_exceeded", 429, "Limit exceeded";
    /// The upstream's name does not resolve.
    UpstreamUnresolvable = "upstream_unresolvable", 502, "Upstream unresolvable";
    /// No connection to the upstream, or it broke before an answer.
    UpstreamUnreachable = "upstream_unreachable", 502, "Upstream unreachable";
    /// The upstream's certificate or handshake.
    UpstreamTls = "upstream_tls", 502, "Upstream TLS failed";
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, "Upstream timed out";
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for DenyReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A refusal: one reason, what decided it, and what a person can do about it. It never names other hosts, and never holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The typed reason.
    pub reason: DenyReason,
    /// A more exact status than the reason's own, such as 431 among the limits.
    pub status: Option<u16>,
    /// The rule that decided, where one did.
    pub rule: Option<RuleName>,
    /// What was decided, in one sentence.
    pub detail: Box<str>,
    /// What an operator or the client would change.
    pub hint: Box<str>,
    /// The address that was refused, for the audit: the sandbox is not told.
    pub address: Option<IpAddr>,
}

impl Denial {
    /// A denial with its sentence and hint.
    #[must_use]
    pub fn new(reason: DenyReason, detail: impl Into<Box<str>>, hint: impl Into<Box<str>>) -> Self {
        let (detail, hint) = (detail.into(), hint.into());
        Self { reason, status: None, rule: None, detail, hint, address: None }
    }

    /// The same about this address.
    #[must_use]
    pub const fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The same with a more exact status.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The same, decided by this rule.
    #[must_use]
    pub fn by(mut self, rule: RuleName) -> Self {
        self.rule = Some(rule);
        self
    }

    /// The status for an HTTP client.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.reason.status())
    }
}
