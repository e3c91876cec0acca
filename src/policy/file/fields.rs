//! Reading a tree strictly: every unknown field, wrong kind and empty list is a finding, and reading goes on behind it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use super::super::diagnostic::{At, Diagnostic, Findings, Place};
use super::super::yaml::{Entry, Kind, Node, shown};

/// The fields of one kind of mapping.
#[derive(Debug)]
pub(in crate::policy) struct Grammar {
    /// The kind, for messages: `a secret store`.
    pub(in crate::policy) what: &'static str,
    /// The fields that it has.
    pub(in crate::policy) known: &'static [&'static str],
    /// Fields of the design that this version does not carry.
    pub(in crate::policy) later: &'static [&'static str],
}

/// A mapping whose fields were checked.
#[derive(Debug)]
pub(in crate::policy) struct Fields<'n> {
    pub(in crate::policy) place: &'n Place,
    entries: BTreeMap<&'n str, &'n Entry>,
    strangers: bool,
}

impl<'n> Fields<'n> {
    /// Checks a mapping against its grammar.
    pub(in crate::policy) fn read(
        node: &'n Node,
        grammar: &Grammar,
        out: &mut Findings,
    ) -> Option<Self> {
        let entries = mapping(node, grammar.what, out)?;
        let mut fields = Self { place: &node.place, entries: BTreeMap::new(), strangers: false };
        for entry in entries {
            let key = entry.key.value.as_str();
            if grammar.known.contains(&key) {
                fields.entries.insert(key, entry);
            } else if grammar.later.contains(&key) {
                out.push(
                    Diagnostic::error(
                        "not-carried-yet",
                        &entry.key.place,
                        format!("this version does not carry `{key}` yet"),
                    )
                    .hint("remove the field; nothing is loaded rather than loaded without it"),
                );
            } else {
                fields.strangers = true;
                out.push(unknown_field(entry, grammar));
            }
        }
        Some(fields)
    }

    /// Whether unknown fields were found: one of them may be a missing field, misspelt.
    pub(in crate::policy) const fn has_strangers(&self) -> bool {
        self.strangers
    }

    /// The value of a field, if it is written.
    pub(in crate::policy) fn get(&self, field: &str) -> Option<&'n Node> {
        self.entries.get(field).map(|entry| &entry.value)
    }

    /// The place of a field's key.
    pub(in crate::policy) fn key_place(&self, field: &str) -> &'n Place {
        self.entries.get(field).map_or(self.place, |entry| &entry.key.place)
    }

    /// The value of a field that must be written.
    pub(in crate::policy) fn required(
        &self,
        field: &str,
        hint: &str,
        out: &mut Findings,
    ) -> Option<&'n Node> {
        let found = self.get(field);
        if found.is_none() && !self.strangers {
            out.push(
                Diagnostic::error(
                    "missing-field",
                    self.place,
                    format!("the field `{field}` is missing"),
                )
                .hint(hint),
            );
        }
        found
    }
}

fn unknown_field(entry: &Entry, grammar: &Grammar) -> Diagnostic {
    let key = entry.key.value.as_str();
    let message = format!("{} has no field `{}`", grammar.what, shown(key));
    let hint = match nearest(key, grammar.known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its fields are {}", listed(grammar.known)),
    };
    Diagnostic::error("unknown-field", &entry.key.place, message).hint(hint)
}

/// `a, b and c`, each in backquotes.
fn listed(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

/// The name that was probably meant.
pub(in crate::policy) fn nearest<'a>(written: &str, names: &[&'a str]) -> Option<&'a str> {
    if written.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let written = plain(written);
    let distance = |name: &str| edits(&written, &plain(name));
    let (distance, name) = names.iter().map(|name| (distance(name), *name)).min()?;
    // Two edits are a transposition, the most frequent slip of all.
    let tolerated = if written.len() > 2 { written.len().div_ceil(3).max(2) } else { 0 };
    (distance <= tolerated).then_some(name)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((above, diagonal), to) in row.iter().skip(1).zip(&row).zip(&b) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(from != *to)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The entries of a mapping.
pub(in crate::policy) fn mapping<'n>(
    node: &'n Node,
    what: &str,
    out: &mut Findings,
) -> Option<&'n [Entry]> {
    match &node.kind {
        Kind::Map(entries) => Some(entries),
        Kind::Unreadable => None,
        Kind::List(_) | Kind::Scalar { .. } => {
            out.push(
                Diagnostic::error(
                    "wrong-kind",
                    &node.place,
                    format!("{what} is a mapping, and this is {}", node.what()),
                )
                .hint("write `field: value` lines below it, or leave it out"),
            );
            None
        }
    }
}

/// A string. A plain scalar that some reader takes for something else is refused.
pub(in crate::policy) fn text<'n>(
    node: &'n Node,
    what: &str,
    out: &mut Findings,
) -> Option<&'n str> {
    let (message, hint) = match &node.kind {
        Kind::Unreadable => return None,
        Kind::Scalar { text, looks_like: None } => return Some(text),
        Kind::Scalar { looks_like: Some(kind), text } if !text.is_empty() => (
            format!("{what} is a string, and this reads as {kind}"),
            "put it in quotes if it is meant literally",
        ),
        Kind::Scalar { .. } => {
            (format!("{what} is a string, and this is empty"), "write it, or leave the field out")
        }
        Kind::List(_) | Kind::Map(_) => {
            (format!("{what} is a string, and this is {}", node.what()), "write one string")
        }
    };
    out.push(Diagnostic::error("not-a-string", &node.place, message).hint(hint));
    None
}

/// A string that parses. The text is shown in the message: not for values.
pub(in crate::policy) fn parsed<T: FromStr<Err: fmt::Display>>(
    node: &Node,
    what: &str,
    code: &'static str,
    out: &mut Findings,
) -> Option<At<T>> {
    let written = text(node, what, out)?;
    match written.parse() {
        Ok(value) => Some(At { value, place: node.place.clone() }),
        Err(error) => {
            out.push(
                Diagnostic::error(code, &node.place, format!("`{}` is not {what}", shown(written)))
                    .hint(error.to_string()),
            );
            None
        }
    }
}

/// A list with at least one item; `empty_hint` says what to write in place of an empty one.
pub(in crate::policy) fn list<'n>(
    node: &'n Node,
    what: &str,
    empty_hint: &str,
    out: &mut Findings,
) -> Option<&'n [Node]> {
    let Kind::List(items) = &node.kind else {
        if matches!(node.kind, Kind::Unreadable) {
            return None;
        }
        out.push(
            Diagnostic::error(
                "wrong-kind",
                &node.place,
                format!("{what} is a list, and this is {}", node.what()),
            )
            .hint("put it in brackets: [one, two]"),
        );
        return None;
    };
    if items.is_empty() {
        out.push(
            Diagnostic::error("empty-list", &node.place, format!("{what} is an empty list"))
                .hint(empty_hint),
        );
    }
    Some(items)
}

/// The items of a list that can be read; one that is written twice is warned about and kept once.
pub(in crate::policy) fn items<T: fmt::Display>(
    nodes: &[Node],
    out: &mut Findings,
    mut read: impl FnMut(&Node, &mut Findings) -> Option<T>,
) -> Vec<At<T>> {
    let mut seen: HashMap<String, Place> = HashMap::new();
    let mut values = Vec::new();
    for node in nodes {
        let Some(value) = read(node, out) else { continue };
        let canonical = value.to_string();
        if let Some(first) = seen.get(&canonical) {
            out.push(
                Diagnostic::warning(
                    "duplicate-item",
                    &node.place,
                    format!("`{canonical}` is listed twice"),
                )
                .related(first, "the first one")
                .hint("remove one of the two"),
            );
            continue;
        }
        seen.insert(canonical, node.place.clone());
        values.push(At { value, place: node.place.clone() });
    }
    values
}
