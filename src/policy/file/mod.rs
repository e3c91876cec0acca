//! A policy file as written: its fields checked, every text parsed into its type, every mistake found.
//!
//! What can only be judged with the other files in view is judged by `compile`.

pub(super) mod fields;
mod rule;
mod secret;
mod sign;
mod token;

use std::path::Path;

use ipnet::IpNet;

use super::diagnostic::{At, Diagnostic, Findings};
use super::effective::Misdirected;
use super::yaml::{Entry, Node, shown};
use crate::host::HostPattern;
use crate::secret::{SandboxId, StoreName};
use fields::{Fields, Grammar, items, list, mapping, parsed};
pub(super) use rule::AllowEntry;
pub(super) use secret::WrittenSecret;
pub(super) use sign::WrittenSign;

/// One file.
#[derive(Debug, Default)]
pub(super) struct PolicyFile {
    pub(super) stores: Vec<WrittenStore>,
    pub(super) sandboxes: Vec<WrittenSandbox>,
}

/// A secret store.
#[derive(Debug)]
pub(super) struct WrittenStore {
    pub(super) name: At<StoreName>,
    pub(super) allow: Option<Vec<At<AllowEntry>>>,
    pub(super) deny: Vec<At<HostPattern>>,
    pub(super) secrets: Vec<WrittenSecret>,
    pub(super) misdirected: Option<At<Misdirected>>,
}

/// A sandbox.
#[derive(Debug)]
pub(super) struct WrittenSandbox {
    pub(super) id: At<SandboxId>,
    pub(super) layers: Vec<At<StoreName>>,
    pub(super) sources: Vec<At<IpNet>>,
}

const FILE: Grammar =
    Grammar { what: "a policy file", known: &["secretStores", "sandboxes"], later: &[] };
const STORE: Grammar = Grammar {
    what: "a secret store",
    known: &["egressAllowlist", "egressDenylist", "secrets", "misdirected"],
    later: &[],
};
const SANDBOX: Grammar =
    Grammar { what: "a sandbox", known: &["secretStores", "sources"], later: &[] };

/// Reads the tree of one file; relative paths in it are meant from `folder`.
pub(super) fn read(root: &Node, folder: &Path, out: &mut Findings) -> PolicyFile {
    let Some(fields) = Fields::read(root, &FILE, out) else { return PolicyFile::default() };
    if fields.get("secretStores").is_none() && fields.get("sandboxes").is_none() {
        out.push(
            Diagnostic::error(
                "empty-file",
                &root.place,
                "the file names no secret store and no sandbox",
            )
            .hint("a policy file has `secretStores`, `sandboxes` or both"),
        );
    }
    let stores = named(fields.get("secretStores"), "`secretStores`", out);
    let stores = stores.into_iter().filter_map(|entry| store(entry, folder, out)).collect();
    let sandboxes = named(fields.get("sandboxes"), "`sandboxes`", out);
    let sandboxes = sandboxes.into_iter().filter_map(|entry| sandbox(entry, out)).collect();
    PolicyFile { stores, sandboxes }
}

/// The entries of a mapping from names, none if it is not written.
fn named<'n>(node: Option<&'n Node>, what: &str, out: &mut Findings) -> Vec<&'n Entry> {
    let entries = node.and_then(|node| mapping(node, what, out));
    entries.unwrap_or_default().iter().collect()
}

/// The name that a key is.
fn name<T: std::str::FromStr<Err = crate::secret::NameError>>(
    entry: &Entry,
    out: &mut Findings,
) -> Option<At<T>> {
    match entry.key.value.parse() {
        Ok(value) => Some(At { value, place: entry.key.place.clone() }),
        Err(error) => {
            let message = format!("`{}` is not a name", shown(&entry.key.value));
            out.push(
                Diagnostic::error("bad-name", &entry.key.place, message).hint(error.to_string()),
            );
            None
        }
    }
}

fn store(entry: &Entry, folder: &Path, out: &mut Findings) -> Option<WrittenStore> {
    let name = name(entry, out);
    let fields = Fields::read(&entry.value, &STORE, out)?;
    let allow = fields.get("egressAllowlist").and_then(|node| {
        let hint = "an empty allowlist does not mean \"nothing\": leave the field out, and the store adds nothing to its sandboxes' allowlist; list hosts to open them";
        let nodes = list(node, "`egressAllowlist`", hint, out)?;
        Some(items(nodes, out, rule::allow_entry))
    });
    let deny = fields.get("egressDenylist").map_or_else(Vec::new, |node| {
        host_list(node, "`egressDenylist`", "leave the field out", out)
    });
    let secrets = named(fields.get("secrets"), "`secrets`", out);
    let secrets =
        secrets.into_iter().filter_map(|entry| secret::read(entry, folder, out)).collect();
    let secrets: Vec<WrittenSecret> = secrets;
    let allow = with_presets(allow, &secrets);
    let deny = denied_by_presets(deny, &secrets);
    let misdirected = fields.get("misdirected").and_then(|node| misdirected(node, out));
    Some(WrittenStore { name: name?, allow, deny, secrets, misdirected })
}

fn misdirected(node: &Node, out: &mut Findings) -> Option<At<Misdirected>> {
    let value = match fields::text(node, "`misdirected`", out)? {
        "deny" => Misdirected::Deny,
        "forward" => Misdirected::Forward,
        other => {
            let message = format!("`{}` is neither `deny` nor `forward`", shown(other));
            out.push(
                Diagnostic::error("bad-misdirected", &node.place, message)
                    .hint("leave the field out, and a token in the wrong place ends the request"),
            );
            return None;
        }
    };
    Some(At { value, place: node.place.clone() })
}

/// The allowlist with the entries that presets bring; what it says itself of a host pattern stands.
fn with_presets(
    allow: Option<Vec<At<AllowEntry>>>,
    secrets: &[WrittenSecret],
) -> Option<Vec<At<AllowEntry>>> {
    let brought = secrets.iter().filter_map(|secret| secret.preset.as_ref());
    let brought = brought.flat_map(|preset| {
        let entry = |entry: &AllowEntry| At { value: entry.clone(), place: preset.place.clone() };
        preset.value.allow.iter().map(entry)
    });
    let mut united = allow;
    for entry in brought {
        let list = united.get_or_insert_default();
        if list.iter().all(|known| known.value.pattern != entry.value.pattern) {
            list.push(entry);
        }
    }
    united
}

/// The denylist with the hosts that presets deny below their wildcards.
fn denied_by_presets(
    deny: Vec<At<HostPattern>>,
    secrets: &[WrittenSecret],
) -> Vec<At<HostPattern>> {
    let mut united = deny;
    for preset in secrets.iter().filter_map(|secret| secret.preset.as_ref()) {
        for host in &preset.value.deny {
            if united.iter().all(|known| known.value != *host) {
                united.push(At { value: host.clone(), place: preset.place.clone() });
            }
        }
    }
    united
}

fn host_list(
    node: &Node,
    what: &str,
    empty_hint: &str,
    out: &mut Findings,
) -> Vec<At<HostPattern>> {
    let nodes = list(node, what, empty_hint, out).unwrap_or_default();
    items(nodes, out, rule::host)
}

fn sandbox(entry: &Entry, out: &mut Findings) -> Option<WrittenSandbox> {
    let id = name(entry, out);
    let fields = Fields::read(&entry.value, &SANDBOX, out)?;
    let layers = fields.get("secretStores").map_or_else(Vec::new, |node| {
        let hint = "name the stores, base first; without any, every public host would be reachable";
        let nodes = list(node, "`secretStores`", hint, out).unwrap_or_default();
        items(nodes, out, |node, out| {
            Some(parsed(node, "the name of a store", "bad-name", out)?.value)
        })
    });
    if fields.get("secretStores").is_none() {
        out.push(
            Diagnostic::warning("unrestricted", &entry.key.place, "this sandbox has no secret store: every public host is reachable, unless the operator's egress.default is deny")
                .hint("secretStores: [base, fork]"),
        );
    }
    let sources = fields.get("sources").map_or_else(Vec::new, |node| {
        let hint = "leave the field out, and the sandbox is recognised by its credentials";
        let nodes = list(node, "`sources`", hint, out).unwrap_or_default();
        items(nodes, out, source)
    });
    Some(WrittenSandbox { id: id?, layers, sources })
}

/// An address or a CIDR, in canonical form.
fn source(node: &Node, out: &mut Findings) -> Option<IpNet> {
    let written = fields::text(node, "a source", out)?;
    let parsed = written
        .parse::<IpNet>()
        .or_else(|_error| written.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
    let hint = match parsed {
        Ok(net) if net.addr() != net.network() => format!("the network is {}", net.trunc()),
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            "write the IPv4 address itself".to_owned()
        }
        Ok(net) if net.prefix_len() == 0 => {
            "that is every client at once: name the sandbox's own address or network".to_owned()
        }
        Ok(net) => return Some(net),
        Err(_) => "write an address such as 10.20.0.5 or a network such as 10.20.0.0/24".to_owned(),
    };
    let message = format!("`{}` does not name the addresses of one sandbox", shown(written));
    out.push(Diagnostic::error("bad-source", &node.place, message).hint(hint));
    None
}
