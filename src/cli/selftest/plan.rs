//! What is tried: for each secret each host pattern that it is bound to, and there each place, by a method and a path that the policy allows.

use std::sync::Arc;

use http::Method;

use super::place::Place;
use crate::host::{Destination, Host, HostPattern, Port, PortRule, Scheme};
use crate::policy::{BoundSecret, EffectivePolicy, RequestPermit, decide_request};
use crate::secret::SecretName;

/// One request that is to be made.
pub(super) struct Trial {
    pub(super) place: Place,
    pub(super) destination: Destination,
    pub(super) way: Result<Way, String>,
}

/// By which method and path.
pub(super) struct Way {
    pub(super) method: Method,
    /// The path up to the token, if it is to stand in it; else the whole path.
    pub(super) path: String,
    /// What follows a token in the path.
    pub(super) rest: String,
}

/// What stands where a pattern has a `*`.
const SAMPLE: &str = "selftest";
/// What stands for the token while a path is chosen: of the form of a token, since rules look at the path as it is sent.
const MARK: &str = "osb_sealed_00000000000000000000000000000000";

/// The trials of one secret.
pub(super) fn trials(policy: &Arc<EffectivePolicy>, secret: &BoundSecret) -> Vec<Trial> {
    let destinations = secret.hosts.iter().filter_map(destination);
    let mut trials = Vec::new();
    for destination in destinations {
        for place in Place::all(secret, policy.secrets()) {
            let way = way(policy, secret, &destination, &place);
            trials.push(Trial { place, destination: destination.clone(), way });
        }
    }
    trials
}

/// A host and port that match the pattern.
fn destination(pattern: &HostPattern) -> Option<Destination> {
    let host = match (pattern.exact_host(), pattern.below()) {
        (Some(host), _) => host.clone(),
        (None, Some(above)) => Host::parse(&format!("{SAMPLE}.{above}")).ok()?,
        (None, None) => Host::parse(&format!("{SAMPLE}.example.com")).ok()?,
    };
    let port = match pattern.ports() {
        PortRule::One(port) => port,
        PortRule::Web | PortRule::Any => Port::HTTPS,
    };
    Some(Destination { host, port })
}

/// Whether an entry other than `*` opens it: only such may lead to loopback, where the upstream is.
pub(super) fn is_named(policy: &EffectivePolicy, destination: &Destination) -> bool {
    policy.allow_rules().iter().any(|rule| {
        !rule.pattern.is_any() && rule.pattern.matches(&destination.host, destination.port)
    })
}

fn way(
    policy: &Arc<EffectivePolicy>,
    secret: &BoundSecret,
    destination: &Destination,
    place: &Place,
) -> Result<Way, String> {
    if destination.host.ip().is_some() {
        return Err("a client of an IP address sends no server name".to_owned());
    }
    let mut refused = None;
    for path in paths(policy, secret, destination, place) {
        for method in place.methods() {
            let verdict = decide_request(policy, destination, Scheme::Https, &method, &path);
            match verdict.permit() {
                Ok(permit) if opens(place, &permit, secret) => return Ok(split(&method, &path)),
                Ok(permit) if let Some(name) = missing(place, &permit) => {
                    refused =
                        Some(format!("{name}, which belongs to the signature, is not bound there"));
                }
                Ok(_) => {}
                Err(denial) => refused = Some(denial.detail.into_string()),
            }
        }
    }
    Err(refused.unwrap_or_else(|| "no request that the policy allows carries it".to_owned()))
}

fn opens(place: &Place, permit: &RequestPermit, secret: &BoundSecret) -> bool {
    let among = |secrets: &[Arc<BoundSecret>]| {
        secrets.iter().any(|bound| bound.name == secret.name && bound.store == secret.store)
    };
    match place {
        Place::Injected(_) => among(permit.injected()),
        Place::Header(_)
        | Place::Basic
        | Place::Query
        | Place::Path
        | Place::Body(_)
        | Place::WebSocket
        | Place::Hmac(_) => among(permit.secrets()),
        Place::Aws(_) => among(permit.secrets()) && missing(place, permit).is_none(),
    }
}

/// What takes part in a signature and may not go there.
fn missing<'p>(place: &'p Place, permit: &RequestPermit) -> Option<&'p SecretName> {
    let Place::Aws(signing) = place else { return None };
    let bound = |name: &SecretName| permit.secrets().iter().any(|bound| bound.name == *name);
    signing.parties().find(|name| !bound(name))
}

/// Paths that rules of this host may allow.
fn paths(
    policy: &EffectivePolicy,
    secret: &BoundSecret,
    destination: &Destination,
    place: &Place,
) -> Vec<String> {
    let rules = policy.allow_rules().iter();
    let rules = rules.filter(|rule| rule.pattern.matches(&destination.host, destination.port));
    let of_rules = rules.flat_map(|rule| &rule.paths);
    let of_inject = secret.inject.iter().flat_map(|inject| &inject.paths);
    let globs = of_inject.chain(of_rules);
    if *place == Place::Path {
        let of_globs = globs.map(|glob| glob.sample(MARK)).filter(|path| path.contains(MARK));
        return std::iter::once(format!("/{SAMPLE}/{MARK}")).chain(of_globs).collect();
    }
    std::iter::once(format!("/{SAMPLE}")).chain(globs.map(|glob| glob.sample(SAMPLE))).collect()
}

fn split(method: &Method, path: &str) -> Way {
    let (before, rest) = path.split_once(MARK).unwrap_or((path, ""));
    // One token is enough; where the glob has more than one `*`, the others keep their sample.
    let rest = rest.replace(MARK, SAMPLE);
    Way { method: method.clone(), path: before.to_owned(), rest }
}
