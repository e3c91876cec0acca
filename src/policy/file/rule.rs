//! Allowlist entries and their parts: a host pattern alone, or with methods, paths and schemes.

use std::fmt;

use http::Method;

use super::super::diagnostic::{At, Diagnostic, Findings};
use super::super::yaml::{Kind, Node, shown};
use super::fields::{Fields, Grammar, items, list, parsed, text};
use crate::host::{HostPattern, Scheme};
use crate::policy::PathGlob;

/// An allowlist entry as written. Empty lists stand for fields that were left out; in a file an empty list is an error.
#[derive(Clone, Debug)]
pub(in crate::policy) struct AllowEntry {
    pub(in crate::policy) pattern: HostPattern,
    pub(in crate::policy) schemes: Vec<Scheme>,
    pub(in crate::policy) methods: Vec<Method>,
    pub(in crate::policy) paths: Vec<PathGlob>,
    pub(in crate::policy) scrub: bool,
    /// The preset of a secret that brought it.
    pub(in crate::policy) preset: Option<&'static str>,
}

impl fmt::Display for AllowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pattern)?;
        if !self.schemes.is_empty() {
            write!(f, " schemes {:?}", self.schemes)?;
        }
        if !self.methods.is_empty() {
            write!(f, " methods {:?}", self.methods)?;
        }
        if !self.paths.is_empty() {
            write!(f, " paths {:?}", self.paths)?;
        }
        if !self.scrub {
            f.write_str(" scrub off")?;
        }
        Ok(())
    }
}

const ENTRY: Grammar = Grammar {
    what: "an allowlist entry",
    known: &["host", "methods", "paths", "schemes", "scrub"],
    later: &["tls"],
};

/// An entry: a host, or a mapping with one.
pub(super) fn allow_entry(node: &Node, out: &mut Findings) -> Option<AllowEntry> {
    if !matches!(node.kind, Kind::Map(_)) {
        let pattern = host(node, out)?;
        return Some(AllowEntry {
            pattern,
            schemes: Vec::new(),
            methods: Vec::new(),
            paths: Vec::new(),
            scrub: true,
            preset: None,
        });
    }
    let fields = Fields::read(node, &ENTRY, out)?;
    let pattern =
        fields.required("host", "host: api.example.com", out).and_then(|node| host(node, out));
    let (methods, paths) = methods_and_paths(&fields, out);
    let schemes = plain_list(&fields, "schemes", out, scheme);
    let scrub = fields.get("scrub").is_none_or(|node| scrub(node, out));
    Some(AllowEntry { pattern: pattern?, schemes, methods, paths, scrub, preset: None })
}

/// `on` or `off`, in quotes or not.
fn scrub(node: &Node, out: &mut Findings) -> bool {
    let written = match &node.kind {
        Kind::Scalar { text, .. } => text.as_str(),
        Kind::List(_) | Kind::Map(_) | Kind::Unreadable => "",
    };
    match written {
        "on" => {}
        "off" => return false,
        _ => {
            out.push(Diagnostic::error("bad-scrub", &node.place, "`scrub` is `on` or `off`").hint(
                "leave the field out, and answers are searched for values where a secret is bound",
            ))
        }
    }
    true
}

/// The two fields that allowlist entries and `inject` share.
pub(super) fn methods_and_paths(
    fields: &Fields<'_>,
    out: &mut Findings,
) -> (Vec<Method>, Vec<PathGlob>) {
    let methods = plain_list(fields, "methods", out, method);
    let paths = plain_list(fields, "paths", out, |node, out| {
        Some(parsed(node, "a path glob", "bad-path", out)?.value)
    });
    (methods, paths)
}

fn plain_list<T: fmt::Display>(
    fields: &Fields<'_>,
    field: &str,
    out: &mut Findings,
    read: impl FnMut(&Node, &mut Findings) -> Option<T>,
) -> Vec<T> {
    let Some(node) = fields.get(field) else { return Vec::new() };
    let hint = format!("leave `{field}` out, and the entry admits all of them");
    let nodes = list(node, &format!("`{field}`"), &hint, out).unwrap_or_default();
    items(nodes, out, read).into_iter().map(|At { value, .. }| value).collect()
}

/// A host pattern.
pub(super) fn host(node: &Node, out: &mut Findings) -> Option<HostPattern> {
    let pattern: HostPattern = parsed(node, "a host pattern", "bad-host", out)?.value;
    warn_about_mixed_scripts(node, &pattern, out);
    Some(pattern)
}

fn method(node: &Node, out: &mut Findings) -> Option<Method> {
    let written = text(node, "a method", out)?;
    let hint = match written {
        "TRACE" | "CONNECT" | "TRACK" | "DEBUG" => "this method is never carried".to_owned(),
        _ if !written.is_empty()
            && written.len() <= 32
            && written.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') =>
        {
            return Method::from_bytes(written.as_bytes()).ok();
        }
        _ if written.bytes().all(|b| b.is_ascii_alphabetic()) => {
            format!("methods are written in capitals: {}", shown(&written.to_ascii_uppercase()))
        }
        _ => "methods are words such as GET or POST".to_owned(),
    };
    out.push(
        Diagnostic::error(
            "bad-method",
            &node.place,
            format!("`{}` is not a method that can be listed", shown(written)),
        )
        .hint(hint),
    );
    None
}

fn scheme(node: &Node, out: &mut Findings) -> Option<Scheme> {
    match text(node, "a scheme", out)? {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => {
            out.push(
                Diagnostic::error(
                    "bad-scheme",
                    &node.place,
                    format!("`{}` is not a scheme", shown(other)),
                )
                .hint("schemes are `https` and `http`"),
            );
            None
        }
    }
}

/// A label in letters of two scripts looks like another name (UTS #39 §5.1, for the scripts that are confused in practice).
fn warn_about_mixed_scripts(node: &Node, pattern: &HostPattern, out: &mut Findings) {
    let Some(host) = pattern.exact_host().or_else(|| pattern.below()) else { return };
    if !host.as_str().contains("xn--") {
        return;
    }
    let (unicode, _) = idna::domain_to_unicode(host.as_str());
    if unicode.split('.').any(is_mixed) {
        out.push(
            Diagnostic::warning("mixed-scripts", &node.place, format!("a label of `{pattern}` mixes letters of different scripts, and looks like another name"))
                .hint("check each letter; write the host in one script, or as the A-label that is meant"),
        );
    }
}

fn is_mixed(label: &str) -> bool {
    let has = |ranges: &[std::ops::RangeInclusive<char>]| {
        label.chars().any(|c| ranges.iter().any(|range| range.contains(&c)))
    };
    let latin = has(&['a'..='z', '\u{c0}'..='\u{24f}', '\u{1e00}'..='\u{1eff}']);
    let greek = has(&['\u{370}'..='\u{3ff}', '\u{1f00}'..='\u{1fff}']);
    let cyrillic = has(&['\u{400}'..='\u{52f}', '\u{1c80}'..='\u{1c8f}', '\u{2de0}'..='\u{2dff}']);
    let armenian_or_cherokee =
        has(&['\u{530}'..='\u{58f}', '\u{13a0}'..='\u{13ff}', '\u{ab70}'..='\u{abbf}']);
    [latin, greek, cyrillic, armenian_or_cherokee].iter().filter(|script| **script).count() > 1
}
