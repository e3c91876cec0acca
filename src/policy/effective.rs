//! The layers of one sandbox as one immutable value: what is enforced and what is shown.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::path::PathGlob;
use crate::host::address::Nat64;
use crate::host::{HostPattern, HostSet, Scheme};
use crate::secret::{HeaderRule, Inject, Locations, Placeholder, SecretName, Sign, StoreName};

/// Everything that decides about one sandbox's traffic.
#[derive(Debug)]
pub struct EffectivePolicy {
    layers: Vec<StoreName>,
    allow: Allowlist,
    allow_rules: Vec<Arc<AllowRule>>,
    deny: HostSet<RuleName>,
    deny_rules: Vec<(HostPattern, RuleName)>,
    secrets: Vec<Arc<BoundSecret>>,
    secrets_by_host: HostSet<Arc<BoundSecret>>,
    private: Arc<PrivateAccess>,
    strangers: Misdirected,
    digest: PolicyDigest,
}

/// What becomes of a sealed token in the head of a request that may not open it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misdirected {
    /// The request is refused.
    #[default]
    Deny,
    /// The token is forwarded as it is, sealed, and counted.
    Forward,
}

/// What the compiler hands over: rules and secrets already united in layer order.
#[derive(Debug, Default)]
pub struct PolicyParts {
    /// Base first, each store once.
    pub layers: Vec<StoreName>,
    /// The union of the layers' allowlists; `None` if no layer has one.
    pub allow: Option<Vec<AllowRule>>,
    /// The layers' deny patterns.
    pub deny: Vec<(HostPattern, RuleName)>,
    /// The secrets after collisions: of each name the last layer's.
    pub secrets: Vec<BoundSecret>,
    /// What becomes of tokens that are none of these secrets'.
    pub strangers: Misdirected,
}

/// What the operator adds to every sandbox.
#[derive(Debug, Default)]
pub struct OperatorRules {
    /// `egress.default: deny`: without an allowlist nothing is reachable.
    pub closed: bool,
    /// `egress.deny`.
    pub deny: Vec<HostPattern>,
    /// `egress.allowPrivate`.
    pub private: Arc<PrivateAccess>,
}

/// Which hosts may be reached at all.
#[derive(Debug)]
pub enum Allowlist {
    /// No layer has an allowlist: any public host.
    Unrestricted,
    /// What these entries open.
    Only(HostSet<Arc<AllowRule>>),
    /// The operator's closed floor.
    Nothing,
}

/// One allowlist entry.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowRule {
    /// Host and port.
    pub pattern: HostPattern,
    /// The schemes; all if none are named.
    pub schemes: Vec<Scheme>,
    /// The methods; all if none are named.
    pub methods: Vec<http::Method>,
    /// The paths; all if none are named.
    pub paths: Vec<PathGlob>,
    /// Whether answers are searched for values; `scrub: off` says no.
    pub scrub: bool,
    /// Where it is written.
    pub name: RuleName,
}

/// A secret as bound by the layer that won its name.
#[derive(Clone, Debug)]
pub struct BoundSecret {
    /// The name, which is also the environment variable of its token.
    pub name: SecretName,
    /// The store that defines it.
    pub store: StoreName,
    /// Where it may be sent: its own `allowedHosts`, or else its own store's allowlist.
    pub hosts: Vec<HostPattern>,
    /// Whether `hosts` was written on the secret itself; only then introspection lists it.
    pub own_hosts: bool,
    /// The places in which its token is opened.
    pub locations: Locations,
    /// The header that the proxy adds, if any.
    pub inject: Option<Inject>,
    /// How requests are signed with it, if they are; then its value itself never travels.
    pub sign: Option<Sign>,
    /// The shape of its token, if not the standard one.
    pub placeholder: Option<Placeholder>,
    /// What its own store says of its token where it may not be opened.
    pub misdirected: Misdirected,
}

impl BoundSecret {
    /// The header field that the proxy writes for this secret, if any.
    #[must_use]
    pub fn written_header(&self) -> Option<&http::HeaderName> {
        match (&self.inject, &self.sign) {
            (Some(inject), _) => Some(&inject.header),
            (None, Some(Sign::Hmac(rule))) => Some(&rule.header),
            (None, Some(Sign::AwsSigV4(_)) | None) => None,
        }
    }

    /// Whether the value itself may stand in a request, somewhere else than in a signature.
    #[must_use]
    pub fn travels(&self) -> bool {
        self.inject.is_some() || self.locations != Locations::NONE
    }

    /// Whether the value must be able to stand in a header field.
    #[must_use]
    pub fn needs_header(&self) -> bool {
        self.inject.is_some() || self.locations.header != HeaderRule::None
    }
}

impl EffectivePolicy {
    /// Unites the parts with the operator's rules. Deterministic: the same parts give the same digest.
    #[must_use]
    pub fn new(parts: PolicyParts, operator: &OperatorRules) -> Self {
        let allow_rules: Vec<_> = parts.allow.iter().flatten().cloned().map(Arc::new).collect();
        let allow = match (&parts.allow, operator.closed) {
            (Some(_), _) => Allowlist::Only(indexed(
                allow_rules.iter().map(|rule| (rule.pattern.clone(), rule.clone())),
            )),
            (None, false) => Allowlist::Unrestricted,
            (None, true) => Allowlist::Nothing,
        };
        let of_operator = operator.deny.iter().map(|pattern| {
            (pattern.clone(), RuleName::operator(format!("egress.deny: {pattern}")))
        });
        let deny_rules: Vec<_> = of_operator.chain(parts.deny).collect();
        let secrets: Vec<_> = parts.secrets.into_iter().map(Arc::new).collect();
        let by_host = secrets.iter().flat_map(|secret| {
            secret.hosts.iter().map(|pattern| (pattern.clone(), secret.clone()))
        });
        let digest = PolicyDigest::of(
            &parts.layers,
            &allow,
            &allow_rules,
            &deny_rules,
            &secrets,
            &operator.private,
            parts.strangers,
        );
        Self {
            layers: parts.layers,
            allow,
            secrets_by_host: indexed(by_host),
            deny: indexed(deny_rules.iter().cloned()),
            allow_rules,
            deny_rules,
            secrets,
            private: operator.private.clone(),
            strangers: parts.strangers,
            digest,
        }
    }

    /// The layers, base first.
    #[must_use]
    pub fn layers(&self) -> &[StoreName] {
        &self.layers
    }

    /// Which hosts may be reached.
    #[must_use]
    pub const fn allowlist(&self) -> &Allowlist {
        &self.allow
    }

    /// The allowlist's entries in layer order.
    #[must_use]
    pub fn allow_rules(&self) -> &[Arc<AllowRule>] {
        &self.allow_rules
    }

    /// The deny patterns, the operator's first.
    #[must_use]
    pub fn deny_rules(&self) -> &[(HostPattern, RuleName)] {
        &self.deny_rules
    }

    /// The secrets, sorted by name.
    #[must_use]
    pub fn secrets(&self) -> &[Arc<BoundSecret>] {
        &self.secrets
    }

    /// What becomes of a token that is none of these secrets'.
    #[must_use]
    pub const fn strangers(&self) -> Misdirected {
        self.strangers
    }

    /// Identifies this very policy in verdicts and audit.
    #[must_use]
    pub const fn digest(&self) -> PolicyDigest {
        self.digest
    }

    pub(super) const fn deny_set(&self) -> &HostSet<RuleName> {
        &self.deny
    }

    pub(super) const fn secrets_by_host(&self) -> &HostSet<Arc<BoundSecret>> {
        &self.secrets_by_host
    }

    pub(super) fn private_access(&self) -> &PrivateAccess {
        &self.private
    }
}

fn indexed<T>(entries: impl Iterator<Item = (HostPattern, T)>) -> HostSet<T> {
    entries.fold(HostSet::new(), |mut set, (pattern, value)| {
        set.insert(&pattern, value);
        set
    })
}

/// The internal addresses that may be dialled although internal, for names that an entry other than `*` opened.
#[derive(Debug, Default)]
pub struct PrivateAccess {
    /// Each network, with the hosts that may use it; all such names if none are listed.
    pub entries: Vec<(IpNet, Option<Vec<HostPattern>>)>,
    /// The prefixes of the network's NAT64: an address below one is the IPv4 address that it embeds.
    pub nat64: Vec<Nat64>,
}

impl PrivateAccess {
    /// The address by which an answer is judged.
    pub(super) fn judged(&self, answer: SocketAddr) -> SocketAddr {
        let embedded = |ip| self.nat64.iter().find_map(|nat64| nat64.embedded(ip));
        let ip = match answer.ip() {
            IpAddr::V6(v6) => embedded(v6).map_or(IpAddr::V6(v6), IpAddr::V4),
            IpAddr::V4(_) => answer.ip(),
        };
        SocketAddr::new(ip, answer.port())
    }
}

/// Where a rule is written: `git-creds: egressAllowlist[0] github.com`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RuleName {
    layer: Option<StoreName>,
    text: Arc<str>,
}

impl RuleName {
    /// A rule of a store.
    #[must_use]
    pub fn of_layer(layer: StoreName, text: impl Into<Arc<str>>) -> Self {
        Self { layer: Some(layer), text: text.into() }
    }

    /// A rule of the operator's.
    #[must_use]
    pub fn operator(text: impl Into<Arc<str>>) -> Self {
        Self { layer: None, text: text.into() }
    }

    /// The store, or `operator`.
    #[must_use]
    pub fn layer(&self) -> &str {
        self.layer.as_ref().map_or("operator", StoreName::as_str)
    }

    /// The rule within its layer.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// [`RuleName::layer`], shared.
    #[must_use]
    pub fn shared_layer(&self) -> Arc<str> {
        self.layer.as_ref().map_or_else(|| self.layer().into(), StoreName::shared)
    }

    /// [`RuleName::text`], shared.
    #[must_use]
    pub fn shared_text(&self) -> Arc<str> {
        self.text.clone()
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer(), self.text)
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 64 bits of the SHA-256 of a policy's canonical text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyDigest(u64);

impl PolicyDigest {
    /// The bytes that its text shows in hexadecimal.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl PolicyDigest {
    fn of(
        layers: &[StoreName],
        allow: &Allowlist,
        rules: &[Arc<AllowRule>],
        deny: &[(HostPattern, RuleName)],
        secrets: &[Arc<BoundSecret>],
        private: &PrivateAccess,
        strangers: Misdirected,
    ) -> Self {
        let mode = match allow {
            Allowlist::Unrestricted => "unrestricted",
            Allowlist::Only(_) => "listed",
            Allowlist::Nothing => "closed",
        };
        let text = format!(
            "{layers:?}\n{mode}\n{rules:?}\n{deny:?}\n{secrets:?}\n{private:?}\n{strangers:?}"
        );
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        Self(hash.as_ref().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
