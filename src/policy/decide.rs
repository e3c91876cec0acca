//! The one decision. The proxy, `explain`, `test` and introspection all ask here; nobody else compares a host with a rule.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Method;

use super::effective::{AllowRule, Allowlist, BoundSecret, EffectivePolicy, RuleName};
use super::path::NormalPath;
use super::verdict::{ConnectPermit, Denial, DenyReason, RequestPermit, Verdict};
use crate::host::address::{CheckedAddr, Reach, reach};
use crate::host::{Destination, Host, HostSet, Port, PortRule, Scheme};

/// Decides whether a connection may be opened, before its scheme, method or path are known.
pub fn decide_connect(
    policy: &EffectivePolicy,
    destination: &Destination,
) -> Verdict<ConnectPermit> {
    match evaluate(policy, destination, None) {
        Ok(opened) => {
            Verdict::Allow(ConnectPermit { destination: destination.clone(), rule: opened.rule })
        }
        Err(denial) => Verdict::Deny(denial),
    }
}

/// Decides one request. `path` is the request target's path as sent, with or without its query.
pub fn decide_request(
    policy: &Arc<EffectivePolicy>,
    destination: &Destination,
    scheme: Scheme,
    method: &Method,
    path: &str,
) -> Verdict<RequestPermit> {
    let request = Request { scheme, method, path };
    let opened = match evaluate(policy, destination, Some(&request)) {
        Ok(opened) => opened,
        Err(denial) => return Verdict::Deny(denial),
    };
    let mut secrets: Vec<Arc<BoundSecret>> = Vec::new();
    for secret in policy.secrets_by_host().matching_port(&destination.host, destination.port) {
        if !secrets.iter().any(|known| Arc::ptr_eq(known, secret)) {
            secrets.push(secret.clone());
        }
    }
    let injected = match scheme {
        Scheme::Https => {
            secrets.iter().filter(|secret| injects(secret, method, path)).cloned().collect()
        }
        Scheme::Http => Vec::new(),
    };
    Verdict::Allow(RequestPermit {
        policy: policy.clone(),
        destination: destination.clone(),
        scheme,
        rule: opened.rule,
        opened_by_name: opened.by_name,
        restricts_request: opened.restricts_request,
        scrubs: opened.scrubs,
        secrets,
        injected,
    })
}

/// Decides whether a name may be reached at all, on whatever port: a DNS question says no more.
pub fn decide_name(policy: &EffectivePolicy, host: &Host) -> Verdict<()> {
    let at = |port| evaluate(policy, &Destination { host: host.clone(), port }, None);
    let Err(denial) = at(Port::HTTPS) else { return Verdict::Allow(()) };
    if other_ports(policy, host).into_iter().any(|port| at(port).is_ok()) {
        Verdict::Allow(())
    } else {
        Verdict::Deny(denial)
    }
}

/// Decides the addresses that a permitted destination resolved to: one bad answer refuses all.
pub fn decide_address(
    permit: &RequestPermit,
    answers: &[SocketAddr],
    own: &OwnSockets,
) -> Result<Vec<CheckedAddr>, Denial> {
    answers.iter().map(|&answer| check_address(permit, answer, own)).collect()
}

/// Decides a permitted destination whose name somebody else resolves, a corporate proxy: what is seen of its address here is the name alone.
pub fn decide_unresolved(permit: &RequestPermit, own: &OwnSockets) -> Result<(), Denial> {
    let destination = &permit.destination;
    if let Some(ip) = destination.host.ip() {
        return check_address(permit, SocketAddr::new(ip, destination.port.get()), own).map(drop);
    }
    if !is_private_name(&destination.host) {
        return Ok(());
    }
    Err(Denial::new(
        DenyReason::AddressNotAllowed,
        format!(
            "{destination} is a name of private networks, which upstream.proxy would resolve unchecked"
        ),
        "an operator would list it in upstream.proxy.noProxy, and its network in egress.allowPrivate; a retry will not help",
    ))
}

/// Decides the addresses of the corporate proxy itself. The operator named it, so they may be internal; they are never our own.
pub fn decide_proxy_address(
    answers: &[SocketAddr],
    is_own: impl Fn(SocketAddr) -> bool,
) -> Result<Vec<CheckedAddr>, Denial> {
    let check = |&answer: &SocketAddr| {
        if is_own(answer) {
            return Err(Denial::new(
                DenyReason::AddressNotAllowed,
                "the upstream proxy is a socket of Tollgate itself",
                "an operator would correct upstream.proxy.url; a retry will not help",
            ));
        }
        Ok(CheckedAddr::passed(answer))
    };
    answers.iter().map(check).collect()
}

/// Names that only a private network knows: those without a dot, and below the top-level domains of RFC 6761, RFC 6762 (also its appendix
/// G), RFC 8375 and ICANN's `internal`.
fn is_private_name(host: &Host) -> bool {
    const PRIVATE: [&str; 10] = [
        "localhost",
        "local",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "arpa",
        "localdomain",
    ];
    match host.as_str().rsplit_once('.') {
        Some((_, top)) => PRIVATE.contains(&top),
        None => true,
    }
}

/// The addresses on which this Tollgate listens: never dialled, whatever the policy says.
#[derive(Clone, Debug, Default)]
pub struct OwnSockets {
    /// As bound; an unspecified address stands for every address of the machine.
    pub listening: Vec<SocketAddr>,
}

impl OwnSockets {
    /// Whether an address leads to one of them. `is_local` says which addresses are the machine's: an unspecified address listens on all.
    pub fn includes(&self, answer: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        // A mapped address leads to the socket of the address that it maps.
        let plain = answer.ip().to_canonical();
        let same_host = |bound: IpAddr| {
            bound.to_canonical() == plain || (bound.is_unspecified() && is_local(plain))
        };
        self.listening.iter().any(|bound| bound.port() == answer.port() && same_host(bound.ip()))
    }
}

/// The denial of an address that leads back to Tollgate.
pub(crate) fn leads_here(destination: &Destination, answer: SocketAddr) -> Denial {
    let detail = format!("{destination} leads to a socket of Tollgate itself");
    let hint = "Tollgate is never reached through itself; a retry will not help";
    Denial::new(DenyReason::AddressNotAllowed, detail, hint).at(answer.ip())
}

/// Ports of which one is allowed if any is. Where every port is listed, each deny entry takes away one or all of those that are tried.
fn other_ports(policy: &EffectivePolicy, host: &Host) -> Vec<Port> {
    let listed: Vec<PortRule> = match policy.allowlist() {
        Allowlist::Only(rules) => rules.matching(host).map(|(ports, _)| ports).collect(),
        Allowlist::Unrestricted => vec![PortRule::Any],
        Allowlist::Nothing => Vec::new(),
    };
    let denied = policy.deny_set().matching(host).count();
    let some = (1..=u16::MAX).filter_map(|port| Port::try_from(port).ok()).take(denied + 2);
    let any = listed.contains(&PortRule::Any).then_some(some);
    let single = listed.iter().filter_map(|ports| match ports {
        PortRule::One(port) => Some(*port),
        PortRule::Web | PortRule::Any => None,
    });
    single.chain([Port::HTTP]).chain(any.into_iter().flatten()).collect()
}

struct Request<'a> {
    scheme: Scheme,
    method: &'a Method,
    path: &'a str,
}

/// What opened a destination.
struct Opened {
    rule: Option<RuleName>,
    /// By an entry other than a bare `*`, which alone may lead to internal addresses.
    by_name: bool,
    /// By an entry that looks at methods or paths.
    restricts_request: bool,
    /// Some entry that admits this says nothing of `scrub: off`.
    scrubs: bool,
}

/// The rules in their order: never-carried methods, denies, the allowlist.
fn evaluate(
    policy: &EffectivePolicy,
    destination: &Destination,
    request: Option<&Request<'_>>,
) -> Result<Opened, Denial> {
    if let Some(request) = request {
        check_carried(request.method)?;
    }
    if let Some(rule) = policy.deny_set().matching_port(&destination.host, destination.port).next()
    {
        let detail = format!("{destination} is denied by {rule}");
        return Err(Denial::new(
            DenyReason::HostDenied,
            detail,
            "a deny beats every allow; an operator would remove it; a retry will not help",
        )
        .by(rule.clone()));
    }
    match policy.allowlist() {
        Allowlist::Only(rules) => rules
            .matching(&destination.host)
            .map(|(ports, rule)| Candidate::test(rule, ports.admits(destination.port), request))
            .min_by_key(|candidate| candidate.failed)
            .map_or_else(
                || Err(not_listed(policy, destination)),
                |best| best.into_result(destination, request),
            )
            .map(|opened| Opened {
                scrubs: opened.scrubs || scrubs(rules, destination, request),
                ..opened
            }),
        Allowlist::Unrestricted if destination.host.ip().is_none() => {
            Ok(Opened { rule: None, by_name: false, restricts_request: false, scrubs: true })
        }
        Allowlist::Unrestricted => Err(Denial::new(
            DenyReason::HostNotAllowed,
            format!("{destination} is an IP literal, and no layer lists it"),
            "use the host's name, or have an operator list this very address; a retry will not help",
        )),
        Allowlist::Nothing => Err(Denial::new(
            DenyReason::HostNotAllowed,
            "no layer has an allowlist, and the operator's egress.default is deny",
            format!(
                "an operator would add `{}` to a layer's egressAllowlist; a retry will not help",
                destination.host
            ),
        )
        .by(RuleName::operator("egress.default: deny"))),
    }
}

/// The longest method that is carried: no real one has more letters, and a sealed token has.
const LONGEST_METHOD: usize = 32;

/// TRACE and its kin echo what they are sent, secrets included; CONNECT opens tunnels only at the proxy itself.
fn check_carried(method: &Method) -> Result<(), Denial> {
    let too_long = method.as_str().len() > LONGEST_METHOD;
    let never = *method == Method::TRACE
        || *method == Method::CONNECT
        || matches!(method.as_str(), "TRACK" | "DEBUG")
        || too_long;
    if never {
        let detail = if too_long {
            "a method as long as this is never carried".to_owned()
        } else {
            format!("the method {method} is never carried")
        };
        return Err(Denial::new(
            DenyReason::MethodNotAllowed,
            detail,
            "no policy allows it; a retry will not help",
        )
        .with_status(405));
    }
    Ok(())
}

/// An entry that names the host, and the first thing about it that does not fit.
struct Candidate<'a> {
    rule: &'a AllowRule,
    /// Ordered: what got furthest is the most telling reason.
    failed: Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failed {
    Nothing,
    PathFault,
    Path,
    Method,
    Scheme,
    Port,
}

impl<'a> Candidate<'a> {
    fn test(rule: &'a AllowRule, port: bool, request: Option<&Request<'_>>) -> Self {
        let failed = match request {
            _ if !port => Failed::Port,
            Some(request)
                if !rule.schemes.is_empty() && !rule.schemes.contains(&request.scheme) =>
            {
                Failed::Scheme
            }
            Some(request) if !rule.methods.is_empty() && !rule.methods.contains(request.method) => {
                Failed::Method
            }
            Some(request) if !rule.paths.is_empty() => match NormalPath::parse(request.path) {
                Err(_) => Failed::PathFault,
                Ok(path) if !rule.paths.iter().any(|glob| glob.matches(&path)) => Failed::Path,
                Ok(_) => Failed::Nothing,
            },
            _ => Failed::Nothing,
        };
        Self { rule, failed }
    }

    fn into_result(
        self,
        destination: &Destination,
        request: Option<&Request<'_>>,
    ) -> Result<Opened, Denial> {
        let (reason, what) = match (self.failed, request) {
            (Failed::Nothing, _) => {
                return Ok(Opened {
                    rule: Some(self.rule.name.clone()),
                    by_name: !self.rule.pattern.is_any(),
                    restricts_request: !(self.rule.methods.is_empty()
                        && self.rule.paths.is_empty()),
                    scrubs: self.rule.scrub,
                });
            }
            (Failed::Port, _) | (_, None) => {
                (DenyReason::PortNotAllowed, format!("port {}", destination.port))
            }
            (Failed::Scheme, Some(request)) => {
                (DenyReason::SchemeNotAllowed, format!("scheme {}", request.scheme))
            }
            (Failed::Method, Some(request)) => {
                (DenyReason::MethodNotAllowed, format!("method {}", request.method))
            }
            (Failed::Path, Some(_)) => (DenyReason::PathNotAllowed, "this path".to_owned()),
            (Failed::PathFault, Some(_)) => (
                DenyReason::PathNotAllowed,
                "a path that can be read in more than one way".to_owned(),
            ),
        };
        let detail =
            format!("{} is listed by {}, but not for {what}", destination.host, self.rule.name);
        let hint = "an operator would widen that entry or add another; a retry will not help";
        Err(Denial::new(reason, detail, hint).by(self.rule.name.clone()))
    }
}

/// Whether any entry that admits the request wants its answer searched: `scrub: off` holds only where all of them say it.
fn scrubs(
    rules: &HostSet<Arc<AllowRule>>,
    destination: &Destination,
    request: Option<&Request<'_>>,
) -> bool {
    rules
        .matching(&destination.host)
        .map(|(ports, rule)| Candidate::test(rule, ports.admits(destination.port), request))
        .any(|candidate| candidate.failed == Failed::Nothing && candidate.rule.scrub)
}

fn not_listed(policy: &EffectivePolicy, destination: &Destination) -> Denial {
    let layers = policy.layers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let host = destination.authority(Scheme::Https);
    Denial::new(
        DenyReason::HostNotAllowed,
        format!("no entry of the allowlist names {} (layers: {layers})", destination.host),
        format!(
            "an operator would add `{host}` to the egressAllowlist of one of these layers; a retry will not help"
        ),
    )
}

fn injects(secret: &BoundSecret, method: &Method, path: &str) -> bool {
    let Some(inject) = &secret.inject else { return false };
    let by_method = inject.methods.is_empty() || inject.methods.contains(method);
    let by_path = || {
        NormalPath::parse(path)
            .is_ok_and(|path| inject.paths.iter().any(|glob| glob.matches(&path)))
    };
    by_method && (inject.paths.is_empty() || by_path())
}

fn check_address(
    permit: &RequestPermit,
    answer: SocketAddr,
    own: &OwnSockets,
) -> Result<CheckedAddr, Denial> {
    let destination = &permit.destination;
    let access = permit.policy.private_access();
    let judged = access.judged(answer);
    // Without a look at the machine, every internal address may be one of its own.
    let may_be_local = |ip: IpAddr| reach(ip) == Reach::Internal;
    if own.includes(answer, may_be_local) || own.includes(judged, may_be_local) {
        return Err(leads_here(destination, answer));
    }
    let admitted = |(net, hosts): &(ipnet::IpNet, Option<Vec<crate::host::HostPattern>>)| {
        let host = hosts.as_ref().is_none_or(|hosts| {
            hosts.iter().any(|pattern| pattern.matches(&destination.host, destination.port))
        });
        host && net.contains(&judged.ip())
    };
    let private = || permit.opened_by_name && access.entries.iter().any(admitted);
    if reach(judged.ip()) == Reach::Public || private() {
        return Ok(CheckedAddr::passed(answer));
    }
    Err(Denial::new(
        DenyReason::AddressNotAllowed,
        format!("{destination} resolves to an internal address"),
        "an operator would list the network in egress.allowPrivate and the host by name in an allowlist; a retry will not help",
    )
    .at(answer.ip()))
}
