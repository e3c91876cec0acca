//! All policy files together: found, read, checked against each other, and compiled into one [`PolicySet`] — or into nothing at all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::diagnostic::{At, Diagnostic, Findings, Place, Source};
use super::effective::{
    AllowRule, BoundSecret, EffectivePolicy, Misdirected, OperatorRules, RuleName,
};
use super::file::fields::nearest;
use super::file::{self, PolicyFile, WrittenSandbox, WrittenSecret, WrittenStore};
use super::layers::{LayerError, SecretDef, Store, inject_conflict, unite, winning_secrets};
use super::read::{self, Wanted};
use super::{lint, signing, yaml};
use crate::host::{HostPattern, Port, PortRule};
use crate::secret::{SandboxId, SecretName, SecretValue, SourceSpec, StoreName};

/// Every store and sandbox of a set of policy files.
#[derive(Debug, Default)]
pub struct PolicySet {
    stores: BTreeMap<StoreName, Store>,
    sandboxes: BTreeMap<SandboxId, SandboxEntry>,
}

/// What a load came to.
#[derive(Debug)]
pub struct Loaded {
    /// The policy; none if there is any error.
    pub set: Option<PolicySet>,
    /// Everything that was found, in the order of places.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that were read, for those who watch them.
    pub files: Vec<PathBuf>,
}

/// A sandbox of the policy files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxEntry {
    /// The stores, base first, each once.
    pub layers: Vec<StoreName>,
    /// The addresses by which a gateway recognises it.
    pub sources: Vec<IpNet>,
}

impl PolicySet {
    /// Reads files and folders (`*.yaml`, `*.yml`, `*.json` at any depth, no fixtures, nothing hidden) as one policy.
    #[must_use]
    pub fn load(paths: &[PathBuf]) -> Loaded {
        let mut findings = Findings::default();
        if paths.is_empty() {
            findings.push(Diagnostic::of_file("no-file", "", "no policy file is named"));
        }
        let files = read::find(paths, Wanted::Policies, &mut findings);
        let sources = files
            .iter()
            .filter_map(|path| Some((path.as_path(), read::read(path, &mut findings)?)));
        let sources: Vec<_> = sources.collect();
        let set = compile(&sources, &mut findings);
        Loaded { set, diagnostics: findings.sorted(), files }
    }

    /// Reads one text as if it were a file of that name; relative paths in it are meant from the name's folder.
    #[must_use]
    pub fn read(name: &Path, text: &str) -> Loaded {
        let mut findings = Findings::default();
        let source = Arc::new(Source::new(&name.display().to_string(), text));
        let set = compile(&[(name, source)], &mut findings);
        Loaded { set, diagnostics: findings.sorted(), files: Vec::new() }
    }

    /// The stores, by name.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        self.stores.values()
    }

    /// One store.
    #[must_use]
    pub fn store(&self, name: &StoreName) -> Option<&Store> {
        self.stores.get(name)
    }

    /// The sandboxes, by id.
    pub fn sandboxes(&self) -> impl Iterator<Item = (&SandboxId, &SandboxEntry)> {
        self.sandboxes.iter()
    }

    /// One sandbox.
    #[must_use]
    pub fn sandbox(&self, id: &SandboxId) -> Option<&SandboxEntry> {
        self.sandboxes.get(id)
    }

    /// The layers united with the operator's rules. Every layer must exist.
    pub fn effective(
        &self,
        layers: &[StoreName],
        operator: &OperatorRules,
    ) -> Result<EffectivePolicy, LayerError> {
        let stores: Result<Vec<_>, _> = layers
            .iter()
            .map(|name| self.store(name).ok_or_else(|| LayerError::UnknownStore(name.clone())))
            .collect();
        unite(&stores?, operator)
    }

    /// A secret of a store.
    #[must_use]
    pub fn secret(&self, store: &StoreName, name: &SecretName) -> Option<&SecretDef> {
        self.store(store)?.secrets.get(name)
    }
}

/// Reads the files and checks them against each other: a set if there is no error at all.
fn compile(sources: &[(&Path, Arc<Source>)], out: &mut Findings) -> Option<PolicySet> {
    let files = sources.iter().filter_map(|(path, source)| {
        let root = yaml::read(source, out)?;
        Some(file::read(&root, path.parent().unwrap_or_else(|| Path::new("")), out))
    });
    let files: Vec<PolicyFile> = files.collect();
    let (stores, sandboxes): (Vec<_>, Vec<_>) =
        files.into_iter().map(|file| (file.stores, file.sandboxes)).unzip();
    let stores = unique(
        stores.into_iter().flatten(),
        |store: &WrittenStore| &store.name,
        "secret store",
        out,
    );
    let sandboxes = unique(
        sandboxes.into_iter().flatten(),
        |sandbox: &WrittenSandbox| &sandbox.id,
        "sandbox",
        out,
    );
    check_layers(&stores, &sandboxes, out);
    check_sources(&sandboxes, out);
    let set = PolicySet {
        stores: stores
            .iter()
            .map(|written| (written.name.value.clone(), store(written, out)))
            .collect(),
        sandboxes: sandboxes
            .iter()
            .map(|written| (written.id.value.clone(), sandbox(written)))
            .collect(),
    };
    check_injections(&set, &stores, &sandboxes, out);
    lint::check(&set, &stores, &sandboxes, out);
    (!out.has_errors()).then_some(set)
}

/// Each name once; a second definition is an error that names both places.
fn unique<T, N: Ord + Clone + fmt::Display>(
    written: impl Iterator<Item = T>,
    name: impl Fn(&T) -> &At<N>,
    what: &str,
    out: &mut Findings,
) -> Vec<T> {
    let mut seen: BTreeMap<N, Place> = BTreeMap::new();
    let mut kept = Vec::new();
    for item in written {
        let At { value, place } = name(&item).clone();
        if let Some(first) = seen.get(&value) {
            out.push(
                Diagnostic::error(
                    "defined-twice",
                    &place,
                    format!("the {what} `{value}` is defined twice"),
                )
                .related(first, "the first definition")
                .hint("rename or remove one of the two; definitions are never merged"),
            );
            continue;
        }
        seen.insert(value, place);
        kept.push(item);
    }
    kept
}

fn check_layers(stores: &[WrittenStore], sandboxes: &[WrittenSandbox], out: &mut Findings) {
    let names: Vec<&str> = stores.iter().map(|store| store.name.value.as_str()).collect();
    let known: std::collections::HashSet<&str> = names.iter().copied().collect();
    for At { value, place } in sandboxes.iter().flat_map(|sandbox| &sandbox.layers) {
        if !known.contains(value.as_str()) {
            let hint = match nearest(value.as_str(), &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    "define it under `secretStores`, here or in another file of the same policy"
                        .to_owned()
                }
            };
            out.push(
                Diagnostic::error(
                    "unknown-store",
                    place,
                    format!("there is no secret store `{value}`"),
                )
                .hint(hint),
            );
        }
    }
}

/// An address must lead to one sandbox. Of nested networks the narrower one decides; one network of two sandboxes would leave it to chance.
fn check_sources(sandboxes: &[WrittenSandbox], out: &mut Findings) {
    let mut owners: BTreeMap<IpNet, (&Place, &SandboxId)> = BTreeMap::new();
    for sandbox in sandboxes {
        for source in &sandbox.sources {
            let owner = (&source.place, &sandbox.id.value);
            let (other_place, other) = *owners.entry(source.value).or_insert(owner);
            if *other != sandbox.id.value {
                let message = format!("{} belongs to the sandbox `{other}` too", source.value);
                out.push(
                    Diagnostic::error("same-source", &source.place, message)
                        .related(other_place, "the other one")
                        .hint("give each sandbox addresses of its own; one client must not pass for another"),
                );
            }
        }
    }
}

fn sandbox(written: &WrittenSandbox) -> SandboxEntry {
    SandboxEntry {
        layers: written.layers.iter().map(|layer| layer.value.clone()).collect(),
        sources: written.sources.iter().map(|source| source.value).collect(),
    }
}

fn store(written: &WrittenStore, out: &mut Findings) -> Store {
    let name = &written.name.value;
    let rule_name = |list: &str, at: usize, pattern: &HostPattern| {
        RuleName::of_layer(name.clone(), format!("{list}[{at}] {pattern}"))
    };
    let allow = written.allow.as_ref().map(|entries| {
        let rule = |(at, entry): (usize, &At<file::AllowEntry>)| AllowRule {
            pattern: entry.value.pattern.clone(),
            schemes: entry.value.schemes.clone(),
            methods: entry.value.methods.clone(),
            paths: entry.value.paths.clone(),
            scrub: entry.value.scrub,
            name: match entry.value.preset {
                None => rule_name("egressAllowlist", at, &entry.value.pattern),
                Some(preset) => {
                    let text = format!("preset {preset}: {}", entry.value.pattern);
                    RuleName::of_layer(name.clone(), text)
                }
            },
        };
        entries.iter().enumerate().map(rule).collect::<Vec<_>>()
    });
    let deny = written.deny.iter().enumerate();
    let deny = deny
        .map(|(at, pattern)| {
            (pattern.value.clone(), rule_name("egressDenylist", at, &pattern.value))
        })
        .collect();
    let secrets = written
        .secrets
        .iter()
        .map(|secret| (secret.name.value.clone(), bind(secret, written, out)))
        .collect();
    Store { name: name.clone(), allow, deny, secrets, misdirected: misdirected(written) }
}

fn misdirected(written: &WrittenStore) -> Misdirected {
    written.misdirected.as_ref().map_or(Misdirected::Deny, |written| written.value)
}

/// The store's own entries: what a preset brings is for its secret, and binds no other.
fn written_allow(store: &WrittenStore) -> impl Iterator<Item = &At<file::AllowEntry>> {
    store.allow.iter().flatten().filter(|entry| entry.value.preset.is_none())
}

/// Binds a secret: to its own hosts, or else to its own store's allowlist.
fn bind(written: &WrittenSecret, store: &WrittenStore, out: &mut Findings) -> SecretDef {
    let inherited = || written_allow(store).map(|entry| entry.value.pattern.clone()).collect();
    let own =
        written.hosts.as_ref().map(|hosts| hosts.iter().map(|host| host.value.clone()).collect());
    let hosts: Vec<HostPattern> = own.unwrap_or_else(inherited);
    check_binding(written, store, &hosts, out);
    let bound = BoundSecret {
        name: written.name.value.clone(),
        store: store.name.value.clone(),
        hosts,
        own_hosts: written.hosts.is_some(),
        locations: signing::locations(written, store),
        inject: written.inject.as_ref().map(|inject| inject.value.clone()),
        sign: signing::bind(written, store, out),
        placeholder: written.placeholder.clone(),
        misdirected: misdirected(store),
    };
    SecretDef { source: written.source.value.clone(), bound: Arc::new(bound) }
}

fn check_binding(
    written: &WrittenSecret,
    store: &WrittenStore,
    hosts: &[HostPattern],
    out: &mut Findings,
) {
    let At { value: name, place } = &written.name;
    if written.hosts.is_none() && written_allow(store).next().is_none() {
        out.push(
            Diagnostic::error("unbound-secret", place, format!("the secret `{name}` is bound to no host: it has no `allowedHosts`, and its store has no `egressAllowlist`"))
                .hint("allowedHosts: [api.example.com] (or [\"*\"], if it may truly go to every host)"),
        );
    }
    for host in written.hosts.iter().flatten() {
        if host.value.ports() == PortRule::One(Port::HTTP) {
            out.push(
                Diagnostic::error(
                    "plain-http",
                    &host.place,
                    "port 80 is plain HTTP, over which no secret is ever sent",
                )
                .hint("leave the port out, or name the port of the TLS service"),
            );
        }
    }
    let all_exact = hosts.iter().all(|host| host.exact_host().is_some());
    if let Some(inject) = written.written_by_the_proxy()
        && (written.hosts.is_none() || !all_exact)
    {
        out.push(
            Diagnostic::error(
                "inject-needs-exact-hosts",
                inject,
                format!(
                    "the secret `{name}` is put to use by the proxy itself, so its `allowedHosts` must name exact hosts"
                ),
            )
            .hint("allowedHosts: [api.example.com], without `*`"),
        );
    }
    check_length(written, all_exact, out);
}

/// Short values are not searched for in answers, and so do not go to hosts that nobody named.
fn check_length(written: &WrittenSecret, all_exact: bool, out: &mut Findings) {
    let SourceSpec::Value(value) = &written.source.value else { return };
    if value.len() >= SecretValue::SEARCHED_FROM {
        return;
    }
    let name = &written.name.value;
    let place = &written.source.place;
    let least = SecretValue::SEARCHED_FROM;
    out.push(if all_exact {
        Diagnostic::warning(
            "short-value",
            place,
            format!(
                "the value of `{name}` has under {least} bytes, so answers are not searched for it"
            ),
        )
        .hint("use a longer value where the service allows it")
    } else {
        Diagnostic::error(
            "short-value",
            place,
            format!(
                "the value of `{name}` has under {least} bytes, so it binds to exact hosts only"
            ),
        )
        .hint("allowedHosts: [api.example.com], without `*`; or use a longer value")
    });
}

/// Two secrets that write one header on one host: within a store, and within the layers of a sandbox.
fn check_injections(
    set: &PolicySet,
    stores: &[WrittenStore],
    sandboxes: &[WrittenSandbox],
    out: &mut Findings,
) {
    let stacks = stores.iter().map(|store| (&store.name.place, vec![store.name.value.clone()]));
    let stacks = stacks.chain(sandboxes.iter().map(|sandbox| {
        (&sandbox.id.place, sandbox.layers.iter().map(|layer| layer.value.clone()).collect())
    }));
    for (place, layers) in stacks {
        let layers: Vec<&Store> = layers.iter().filter_map(|name| set.store(name)).collect();
        let winners = winning_secrets(&layers);
        let secrets: Vec<&BoundSecret> = winners.values().map(|secret| &*secret.bound).collect();
        if let Some(conflict) = inject_conflict(&secrets) {
            let error = LayerError::InjectedTwice(Box::new(conflict));
            let (message, hint) = split_hint(&error.to_string());
            out.push(Diagnostic::error("injected-twice", place, message).hint(hint));
        }
    }
}

/// `what is wrong; what to do` in its two parts.
fn split_hint(text: &str) -> (String, String) {
    let (message, hint) = text.split_once("; ").unwrap_or((text, ""));
    (message.to_owned(), hint.to_owned())
}
