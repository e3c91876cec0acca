//! Layers: the stores of one sandbox, base first, united into its effective policy.
//!
//! A later layer adds hosts and may replace a secret as a whole. It never widens where an earlier layer's secret may go, because a secret
//! is bound within its own store, before layers are united.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderName;

use super::effective::{
    AllowRule, BoundSecret, EffectivePolicy, Misdirected, OperatorRules, PolicyParts, RuleName,
};
use crate::host::HostPattern;
use crate::secret::{SecretName, SourceSpec, StoreName};

/// A secret store, checked and compiled.
#[derive(Debug)]
pub struct Store {
    /// Its name.
    pub name: StoreName,
    /// Its allowlist, if it has one.
    pub allow: Option<Vec<AllowRule>>,
    /// Its deny patterns.
    pub deny: Vec<(HostPattern, RuleName)>,
    /// Its secrets.
    pub secrets: BTreeMap<SecretName, SecretDef>,
    /// What becomes of its secrets' tokens where they may not be opened.
    pub misdirected: Misdirected,
}

/// A secret: where its value comes from, and where it may go.
#[derive(Clone, Debug)]
pub struct SecretDef {
    /// Where the value comes from.
    pub source: SourceSpec,
    /// The secret as its own store binds it.
    pub bound: Arc<BoundSecret>,
}

/// Unites stores, base first, with the operator's rules.
pub fn unite(stores: &[&Store], operator: &OperatorRules) -> Result<EffectivePolicy, LayerError> {
    let mut layers: Vec<&Store> = Vec::new();
    for store in stores {
        if !layers.iter().any(|known| known.name == store.name) {
            layers.push(store);
        }
    }
    let secrets = winning_secrets(&layers);
    let winners: Vec<&BoundSecret> = secrets.values().map(|secret| &*secret.bound).collect();
    if let Some(conflict) = inject_conflict(&winners) {
        return Err(LayerError::InjectedTwice(Box::new(conflict)));
    }
    let parts = PolicyParts {
        layers: layers.iter().map(|store| store.name.clone()).collect(),
        allow: united_allowlist(&layers),
        deny: layers.iter().flat_map(|store| store.deny.iter().cloned()).collect(),
        secrets: winners.into_iter().cloned().collect(),
        strangers: united_strangers(&layers),
    };
    Ok(EffectivePolicy::new(parts, operator))
}

/// Of each name the last layer's secret, whole.
pub(super) fn winning_secrets<'s>(layers: &[&'s Store]) -> BTreeMap<&'s SecretName, &'s SecretDef> {
    layers.iter().flat_map(|store| &store.secrets).collect()
}

/// The allowlists in layer order, duplicates dropped; `None` if no layer has one.
fn united_allowlist(layers: &[&Store]) -> Option<Vec<AllowRule>> {
    let mut seen = std::collections::HashSet::new();
    let lists: Vec<_> = layers.iter().filter_map(|store| store.allow.as_ref()).collect();
    (!lists.is_empty()).then(|| {
        let rules = lists.into_iter().flatten();
        rules.filter(|rule| seen.insert(what_it_opens(rule))).cloned().collect()
    })
}

/// A token of nobody is forwarded only if every layer says so.
fn united_strangers(layers: &[&Store]) -> Misdirected {
    let all = layers.iter().all(|store| store.misdirected == Misdirected::Forward);
    if all && !layers.is_empty() { Misdirected::Forward } else { Misdirected::Deny }
}

/// A rule without its name.
fn what_it_opens(rule: &AllowRule) -> String {
    let AllowRule { pattern, schemes, methods, paths, scrub, name: _ } = rule;
    format!("{pattern} {schemes:?} {methods:?} {paths:?} {scrub}")
}

/// Two secrets that would both write one header on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectConflict {
    /// The first secret by name.
    pub one: SecretName,
    /// The second.
    pub other: SecretName,
    /// The header.
    pub header: HeaderName,
    /// The host, as the first secret lists it.
    pub host: HostPattern,
}

/// Finds two secrets that inject one header on one host.
pub(super) fn inject_conflict(secrets: &[&BoundSecret]) -> Option<InjectConflict> {
    let mut seen: HashMap<_, Vec<(&SecretName, &HostPattern)>> = HashMap::new();
    for secret in secrets {
        let Some(header) = secret.written_header() else { continue };
        for pattern in &secret.hosts {
            let others = seen.entry((header, pattern.exact_host())).or_default();
            let clash = others
                .iter()
                .find(|(name, other)| **name != secret.name && other.overlaps(pattern));
            if let Some((one, host)) = clash {
                return Some(InjectConflict {
                    one: (*one).clone(),
                    other: secret.name.clone(),
                    header: header.clone(),
                    host: (*host).clone(),
                });
            }
            others.push((&secret.name, pattern));
        }
    }
    None
}

/// Why layers cannot be united.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// A layer that nobody defines.
    #[error("there is no secret store `{0}`; name one that a policy file defines")]
    UnknownStore(StoreName),
    /// Two secrets on one host and header.
    #[error(
        "the secrets `{}` and `{}` both write the header `{}` on `{}`; bind them to different hosts or headers",
        .0.one, .0.other, .0.header, .0.host
    )]
    InjectedTwice(Box<InjectConflict>),
}
