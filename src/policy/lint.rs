//! What loads but is probably not what was meant.

use std::collections::BTreeMap;

use psl::Psl as _;

use super::compile::PolicySet;
use super::diagnostic::{At, Diagnostic, Findings};
use super::effective::Misdirected;
use super::file::{WrittenSandbox, WrittenSecret, WrittenStore};
use super::layers::Store;
use crate::host::HostPattern;
use crate::secret::{SourceSpec, StoreName};

/// Looks through all stores and sandboxes.
pub(super) fn check(
    set: &PolicySet,
    stores: &[WrittenStore],
    sandboxes: &[WrittenSandbox],
    out: &mut Findings,
) {
    let stacks = Stacks::of(set, sandboxes);
    for store in stores {
        for entry in store.allow.iter().flatten() {
            public_suffix(&entry.value.pattern, entry, out);
            covered_by_deny(entry, store, &stacks, out);
            scrub_off(entry, out);
        }
        forwards_misdirected(store, out);
        for secret in &store.secrets {
            for host in secret.hosts.iter().flatten() {
                public_suffix(&host.value, host, out);
                wildcard_grant(secret, host, out);
                dead_grant(secret, host, store, &stacks, out);
            }
        }
        names_differ_in_case(store, out);
    }
    for sandbox in sandboxes {
        unrestricted(set, sandbox, out);
    }
    same_value(stores, out);
}

/// For each store the layer stacks that it is in.
struct Stacks<'s>(BTreeMap<&'s StoreName, Vec<Vec<&'s Store>>>);

impl<'s> Stacks<'s> {
    fn of(set: &'s PolicySet, sandboxes: &[WrittenSandbox]) -> Self {
        let mut stacks: BTreeMap<&StoreName, Vec<Vec<&Store>>> =
            set.stores().map(|store| (&store.name, vec![vec![store]])).collect();
        let mut known = std::collections::HashSet::new();
        for sandbox in sandboxes {
            let stack: Vec<&Store> =
                sandbox.layers.iter().filter_map(|layer| set.store(&layer.value)).collect();
            let names: Vec<&StoreName> = stack.iter().map(|store| &store.name).collect();
            if known.insert(names) {
                for store in &stack {
                    stacks.entry(&store.name).or_default().push(stack.clone());
                }
            }
        }
        Self(stacks)
    }

    /// The store alone, and every stack of a sandbox with it.
    fn with(&self, store: &WrittenStore) -> impl Iterator<Item = &Vec<&'s Store>> {
        self.0.get(&store.name.value).into_iter().flatten()
    }
}

/// `*.com`, `*.co.uk`, `*.github.io`, `*.amazonaws.com`: below such a name anybody may own a host.
fn public_suffix<T>(pattern: &HostPattern, at: &At<T>, out: &mut Findings) {
    let Some(apex) = pattern.below().filter(|apex| has_public_suffix_at_or_below(apex.as_str()))
    else {
        return;
    };
    out.push(
        Diagnostic::warning(
            "public-suffix",
            &at.place,
            format!(
                "anybody can own a host below `{apex}`, so `{pattern}` opens hosts of strangers"
            ),
        )
        .hint("name the hosts that are meant"),
    );
}

/// Labels under which the list's private part often continues, for names that are no suffix themselves (`amazonaws.com` → `s3.amazonaws.com`).
const PROBES: [&str; 8] = ["x", "s3", "compute-1", "web", "app", "pages", "sites", "blob.core"];

fn has_public_suffix_at_or_below(apex: &str) -> bool {
    let is_suffix = |name: &str| {
        psl::List
            .suffix(name.as_bytes())
            .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_bytes())
    };
    is_suffix(apex) || PROBES.iter().any(|label| is_suffix(&format!("{label}.{apex}")))
}

fn wildcard_grant(secret: &WrittenSecret, host: &At<HostPattern>, out: &mut Findings) {
    if host.value.exact_host().is_some() {
        return;
    }
    out.push(
        Diagnostic::warning(
            "wildcard-grant",
            &host.place,
            format!(
                "the secret `{}` may be sent to every host that `{}` matches",
                secret.name.value, host.value
            ),
        )
        .hint("name the hosts that need it"),
    );
}

/// A secret's host that nothing opens.
fn dead_grant(
    secret: &WrittenSecret,
    host: &At<HostPattern>,
    store: &WrittenStore,
    stacks: &Stacks<'_>,
    out: &mut Findings,
) {
    let opens = |stack: &Vec<&Store>| {
        let mut lists = stack.iter().filter_map(|store| store.allow.as_ref()).peekable();
        lists.peek().is_none() || lists.flatten().any(|rule| rule.pattern.overlaps(&host.value))
    };
    if !stacks.with(store).any(opens) {
        out.push(
            Diagnostic::warning(
                "dead-grant",
                &host.place,
                format!(
                    "no allowlist opens `{}`, so the secret `{}` never gets there",
                    host.value, secret.name.value
                ),
            )
            .hint(
                "add the host to an `egressAllowlist`; `allowedHosts` opens no network by itself",
            ),
        );
    }
}

/// An entry that a deny makes void.
fn covered_by_deny(
    entry: &At<super::file::AllowEntry>,
    store: &WrittenStore,
    stacks: &Stacks<'_>,
    out: &mut Findings,
) {
    let pattern = &entry.value.pattern;
    let denied = |stack: &Vec<&Store>| {
        let mut denies = stack.iter().flat_map(|store| &store.deny);
        denies.find(|(deny, _)| deny.covers(pattern)).map(|(_, rule)| rule.to_string())
    };
    let mut stacks = stacks.with(store).map(denied);
    let in_store = stacks.next().flatten();
    let in_every_sandbox = || stacks.reduce(|one, other| one.and(other)).flatten();
    if let Some(rule) = in_store.or_else(in_every_sandbox) {
        out.push(
            Diagnostic::warning(
                "covered-by-deny",
                &entry.place,
                format!("`{pattern}` is denied as a whole by {rule}"),
            )
            .hint("remove one of the two; a deny beats every allow"),
        );
    }
}

fn scrub_off(entry: &At<super::file::AllowEntry>, out: &mut Findings) {
    if !entry.value.scrub {
        let message = format!(
            "answers of `{}` are not searched for values: if it echoes one, the sandbox learns it",
            entry.value.pattern
        );
        out.push(
            Diagnostic::warning("scrub-off", &entry.place, message)
                .hint("keep it to hosts that never send back what they are sent"),
        );
    }
}

fn forwards_misdirected(store: &WrittenStore, out: &mut Findings) {
    let forwards = |written: &&At<Misdirected>| written.value == Misdirected::Forward;
    if let Some(written) = store.misdirected.as_ref().filter(forwards) {
        let message = format!(
            "tokens of `{}` that are sent where they are not bound are forwarded sealed, and no request is refused for it",
            store.name.value
        );
        out.push(
            Diagnostic::warning("misdirected-forward", &written.place, message)
                .hint("a misdirected token is the sign of a sandbox gone astray; leave the field out to refuse it"),
        );
    }
}

fn names_differ_in_case(store: &WrittenStore, out: &mut Findings) {
    let mut seen: BTreeMap<String, &WrittenSecret> = BTreeMap::new();
    for secret in &store.secrets {
        let folded = secret.name.value.as_str().to_ascii_lowercase();
        if let Some(first) = seen.insert(folded, secret) {
            out.push(
                Diagnostic::warning(
                    "names-differ-in-case",
                    &secret.name.place,
                    format!(
                        "`{}` and `{}` differ in case only",
                        first.name.value, secret.name.value
                    ),
                )
                .related(&first.name.place, "the first one")
                .hint("give them names that cannot be mistaken"),
            );
        }
    }
}

/// A sandbox whose layers all lack an allowlist.
fn unrestricted(set: &PolicySet, sandbox: &WrittenSandbox, out: &mut Findings) {
    let layers: Vec<_> =
        sandbox.layers.iter().filter_map(|layer| set.store(&layer.value)).collect();
    if !layers.is_empty()
        && layers.len() == sandbox.layers.len()
        && layers.iter().all(|store| store.allow.is_none())
    {
        out.push(
            Diagnostic::warning("unrestricted", &sandbox.id.place, "no layer of this sandbox has an `egressAllowlist`: every public host is reachable, unless the operator's egress.default is deny")
                .hint("add an `egressAllowlist` to one of its stores"),
        );
    }
}

/// One literal value under two names: a grant of the one is a grant of the other.
fn same_value(stores: &[WrittenStore], out: &mut Findings) {
    let literals: Vec<&WrittenSecret> = stores
        .iter()
        .flat_map(|store| &store.secrets)
        .filter(|secret| matches!(secret.source.value, SourceSpec::Value(_)))
        .collect();
    for (at, secret) in literals.iter().enumerate() {
        if let Some(first) =
            literals.iter().take(at).find(|first| first.source.value == secret.source.value)
        {
            out.push(
                Diagnostic::warning("same-value", &secret.source.place, format!("`{}` and `{}` have the same value", first.name.value, secret.name.value))
                    .related(&first.source.place, "the other one")
                    .hint("use one secret, or give each a value of its own; hosts of the one can use it as the other"),
            );
        }
    }
}
