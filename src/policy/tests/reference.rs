//! The decision against a slow, obvious reference over random layered policies. The policies are written as YAML and loaded, so that the
//! whole way from text to verdict is compared. proptest prints the failing case and its seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::host::{Destination, Host, HostPattern, HostSet, Port, Scheme};
use crate::secret::StoreName;

/// A pattern in the reference's own words.
#[derive(Clone, Debug)]
struct Pattern {
    host: String,
    port: &'static str,
}

impl Pattern {
    fn text(&self) -> String {
        format!("{}{}", self.host, self.port)
    }

    fn names(&self, host: &str) -> bool {
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        match self.host.strip_prefix("*.") {
            _ if self.host == "*" => !is_address,
            Some(apex) => {
                !is_address && host.len() > apex.len() + 1 && host.ends_with(&format!(".{apex}"))
            }
            None => self.host == host,
        }
    }

    fn admits(&self, port: u16) -> bool {
        match self.port {
            "" => port == 80 || port == 443,
            ":*" => true,
            one => one.trim_start_matches(':').parse() == Ok(port),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    pattern: Pattern,
    schemes: Vec<&'static str>,
    methods: Vec<&'static str>,
    paths: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Layer {
    allow: Option<Vec<Entry>>,
    deny: Vec<Pattern>,
    /// By name; `None` inherits the layer's allowlist.
    secrets: BTreeMap<&'static str, Option<Vec<Pattern>>>,
}

#[derive(Clone, Debug)]
struct Asked {
    host: String,
    port: u16,
    scheme: &'static str,
    method: &'static str,
    path: &'static str,
}

const PATHS: [&str; 8] = ["/", "/a", "/a/b", "/a/b/c", "/b?q=/a/b", "/a/../b", "/a%2fb", "/%61/b"];
const GLOBS: [&str; 5] = ["/a/**", "/a/*", "/*", "/**", "/b"];

/// Which globs match which paths, written out by hand.
fn path_matches(glob: &str, path: &str) -> bool {
    matches!(
        (glob, path),
        ("/a/**", "/a/b" | "/a/b/c" | "/%61/b")
            | ("/a/*", "/a/b" | "/%61/b")
            | ("/*", "/" | "/a" | "/b?q=/a/b")
            | ("/**", "/" | "/a" | "/a/b" | "/a/b/c" | "/b?q=/a/b" | "/%61/b")
            | ("/b", "/b?q=/a/b")
    )
}

fn name() -> impl Strategy<Value = String> {
    let labels = prop::collection::vec(prop::sample::select(vec!["a", "b", "x-a"]), 1..4);
    prop_oneof![9 => labels.prop_map(|labels| format!("{}.test", labels.join("."))), 1 => Just("192.0.2.1".to_owned())]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let below =
        name().prop_filter("an address has nothing below it", |name| name.ends_with("test"));
    let host = prop_oneof![6 => name(), 4 => below.prop_map(|name| format!("*.{name}")), 1 => Just("*".to_owned())];
    (host, prop::sample::select(vec!["", "", "", ":443", ":8443", ":*"]))
        .prop_map(|(host, port)| Pattern { host, port })
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(of, 1..of.len())]
}

fn entry() -> impl Strategy<Value = Entry> {
    (pattern(), some(&["https", "http"]), some(&["GET", "POST", "PUT"]), some(&GLOBS))
        .prop_map(|(pattern, schemes, methods, paths)| Entry { pattern, schemes, methods, paths })
}

fn layer() -> impl Strategy<Value = Layer> {
    // No port 80: a secret's own hosts must not name plain HTTP, and ":8443" is as good.
    let hosts = prop::option::of(prop::collection::vec(pattern(), 1..3));
    (
        prop::option::weighted(0.8, prop::collection::vec(entry(), 1..5)),
        prop::collection::vec(pattern(), 0..2),
        prop::collection::btree_map(prop::sample::select(vec!["K1", "K2", "K3"]), hosts, 0..3),
    )
        .prop_map(|(allow, deny, mut secrets)| {
            if allow.is_none() {
                secrets.retain(|_, hosts| hosts.is_some());
            }
            Layer { allow, deny, secrets }
        })
}

fn asked() -> impl Strategy<Value = Asked> {
    let port = prop::sample::select(vec![443, 443, 80, 8443, 22]);
    let scheme = prop::sample::select(vec!["https", "https", "http"]);
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "TRACE"]);
    (name(), port, scheme, method, prop::sample::select(PATHS.to_vec()))
        .prop_map(|(host, port, scheme, method, path)| Asked { host, port, scheme, method, path })
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// The layers as a policy file, named `l0`, `l1`, …
fn yaml(layers: &[Layer]) -> String {
    let mut text = "secretStores:\n".to_owned();
    for (at, layer) in layers.iter().enumerate() {
        write!(text, "  l{at}: {{ secrets: {{ ").unwrap();
        for (name, hosts) in &layer.secrets {
            let hosts = hosts.as_ref().map_or(String::new(), |hosts| {
                format!(", allowedHosts: [{}]", quoted(hosts.iter().map(Pattern::text)))
            });
            write!(text, "{name}: {{ from: {{ env: A }}{hosts} }}, ").unwrap();
        }
        text.push_str("}, ");
        if let Some(entries) = &layer.allow {
            let entries = entries.iter().map(|entry| {
                let list = |name: &str, items: &[&str]| {
                    if items.is_empty() {
                        String::new()
                    } else {
                        format!(", {name}: [{}]", quoted(items))
                    }
                };
                let Entry { pattern, schemes, methods, paths } = entry;
                format!(
                    "{{ host: \"{}\"{}{}{} }}",
                    pattern.text(),
                    list("schemes", schemes),
                    list("methods", methods),
                    list("paths", paths)
                )
            });
            write!(text, "egressAllowlist: [{}], ", entries.collect::<Vec<_>>().join(", "))
                .unwrap();
        }
        if !layer.deny.is_empty() {
            write!(text, "egressDenylist: [{}]", quoted(layer.deny.iter().map(Pattern::text)))
                .unwrap();
        }
        text.push_str(" }\n");
    }
    text
}

fn effective(layers: &[Layer]) -> Arc<EffectivePolicy> {
    let names: Vec<StoreName> =
        (0..layers.len()).map(|at| format!("l{at}").parse().unwrap()).collect();
    Arc::new(set(&yaml(layers)).effective(&names, &OperatorRules::default()).unwrap())
}

/// What the reference says: the reason of a denial, or the secrets of an allowed request.
fn reference(layers: &[Layer], asked: &Asked) -> Result<Vec<String>, DenyReason> {
    if asked.method == "TRACE" {
        return Err(DenyReason::MethodNotAllowed);
    }
    let matches = |pattern: &Pattern| pattern.names(&asked.host) && pattern.admits(asked.port);
    if layers.iter().flat_map(|layer| &layer.deny).any(matches) {
        return Err(DenyReason::HostDenied);
    }
    let lists: Vec<_> = layers.iter().filter_map(|layer| layer.allow.as_ref()).collect();
    let entries = lists.iter().copied().flatten().filter(|entry| entry.pattern.names(&asked.host));
    let is_address = asked.host.parse::<std::net::IpAddr>().is_ok();
    let mut furthest = (0, DenyReason::HostNotAllowed);
    let mut opened = lists.is_empty() && !is_address;
    for entry in entries {
        let in_list = |list: &[&str], item: &str| list.is_empty() || list.contains(&item);
        let path =
            entry.paths.is_empty() || entry.paths.iter().any(|glob| path_matches(glob, asked.path));
        let stopped = match () {
            () if !entry.pattern.admits(asked.port) => (1, DenyReason::PortNotAllowed),
            () if !in_list(&entry.schemes, asked.scheme) => (2, DenyReason::SchemeNotAllowed),
            () if !in_list(&entry.methods, asked.method) => (3, DenyReason::MethodNotAllowed),
            () if !path => (4, DenyReason::PathNotAllowed),
            () => {
                opened = true;
                continue;
            }
        };
        if stopped.0 > furthest.0 {
            furthest = stopped;
        }
    }
    if !opened {
        return Err(furthest.1);
    }
    let mut bound: BTreeMap<&str, bool> = BTreeMap::new();
    for layer in layers {
        for (name, hosts) in &layer.secrets {
            let of_layer = || layer.allow.iter().flatten().any(|entry| matches(&entry.pattern));
            bound.insert(
                name,
                hosts.as_ref().map_or_else(of_layer, |hosts| hosts.iter().any(matches)),
            );
        }
    }
    Ok(bound.into_iter().filter(|(_, bound)| *bound).map(|(name, _)| name.to_owned()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decision_equals_the_reference(layers in prop::collection::vec(layer(), 1..4), asked in prop::collection::vec(asked(), 20)) {
        let policy = effective(&layers);
        for asked in &asked {
            let destination = Destination { host: Host::parse(&asked.host).unwrap(), port: Port::try_from(asked.port).unwrap() };
            let scheme = if asked.scheme == "https" { Scheme::Https } else { Scheme::Http };
            let method: Method = asked.method.parse().unwrap();
            let decided = decide_request(&policy, &destination, scheme, &method, asked.path).permit();
            let connected = decide_connect(&policy, &destination).permit();
            prop_assert!(decided.is_err() || connected.is_ok(), "a request is allowed whose connection is not: {asked:?}");
            let decided = decided.map_err(|denial| denial.reason).map(|permit| {
                let mut names: Vec<_> = permit.secrets().iter().map(|secret| secret.name.to_string()).collect();
                names.sort();
                names
            });
            prop_assert_eq!(decided, reference(&layers, asked), "{:?} in\n{}", asked, yaml(&layers));
        }
    }

    #[test]
    fn a_fork_changes_no_base_secret_that_it_does_not_replace(base in layer(), fork in layer()) {
        let alone = effective(std::slice::from_ref(&base));
        let both = effective(&[base, fork.clone()]);
        for secret in alone.secrets().iter().filter(|secret| !fork.secrets.contains_key(secret.name.as_str())) {
            let in_both = both.secrets().iter().find(|other| other.name == secret.name).unwrap();
            prop_assert_eq!(&in_both.hosts, &secret.hosts);
        }
        for (pattern, _) in alone.deny_rules() {
            prop_assert!(both.deny_rules().iter().any(|(other, _)| other == pattern));
        }
    }

    #[test]
    fn a_host_set_equals_a_list_of_patterns(patterns in prop::collection::vec(pattern(), 0..12), hosts in prop::collection::vec((name(), prop::sample::select(vec![80u16, 443, 8443, 22])), 20)) {
        let mut indexed = HostSet::new();
        for (at, pattern) in patterns.iter().enumerate() {
            indexed.insert(&pattern.text().parse().unwrap(), at);
        }
        for (host, port) in hosts {
            let parsed = Host::parse(&host).unwrap();
            let mut found: Vec<usize> = indexed.matching_port(&parsed, Port::try_from(port).unwrap()).copied().collect();
            found.sort_unstable();
            let expected: Vec<usize> = (0..patterns.len()).filter(|at| patterns[*at].names(&host) && patterns[*at].admits(port)).collect();
            prop_assert_eq!(found, expected, "{}:{}", host, port);
        }
    }

    #[test]
    fn covering_and_overlapping_agree_with_matching(one in pattern(), other in pattern(), host in name(), port in prop::sample::select(vec![80u16, 443, 8443, 22])) {
        let [a, b] = [&one, &other].map(|pattern| pattern.text().parse::<HostPattern>().unwrap());
        let (host, port) = (Host::parse(&host).unwrap(), Port::try_from(port).unwrap());
        if a.covers(&b) && b.matches(&host, port) {
            prop_assert!(a.matches(&host, port), "{a} covers {b}");
        }
        if a.matches(&host, port) && b.matches(&host, port) {
            prop_assert!(a.overlaps(&b) && b.overlaps(&a), "{a} overlaps {b}");
        }
        prop_assert!(!a.covers(&b) || a.overlaps(&b));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", lines in prop::collection::vec("[ ]{0,6}(secretStores|sandboxes|a|from|value|- |\\[|\\{|&x|\\*x|'|\"|\\||: |: \\{ |, |\\}|\\]|!!str |<<|#|~|1)*", 0..12)) {
        for text in [text, lines.join("\n")] {
            let loaded = PolicySet::read(Path::new("p.yaml"), &text);
            for found in &loaded.diagnostics {
                prop_assert!(found.line > 0 && found.column > 0 && !found.render(false).is_empty());
            }
        }
    }
}
