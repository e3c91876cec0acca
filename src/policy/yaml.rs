//! YAML (and so JSON) text → a tree in which every node knows its place.
//!
//! The tree is built from parser events rather than through serde, because serde stops at the first mistake and forgets how a scalar was
//! quoted. What can be read in two ways is refused here: duplicate keys, merge keys, anchors, tags, several documents, and plain scalars that
//! some YAML version takes for a number, a boolean, a date or null.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, StrInput};

use super::diagnostic::{At, Diagnostic, Findings, Place, Source, Span};

/// Nesting beyond this is refused; the grammar needs eight.
const MAX_DEPTH: usize = 32;
/// More nodes than this are refused.
const MAX_NODES: usize = 200_000;

/// A part of a file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A text; `looks_like` says what a plain scalar would be to some YAML reader, if not a text.
    Scalar { text: String, looks_like: Option<&'static str> },
    /// A list.
    List(Vec<Node>),
    /// A mapping without duplicate keys.
    Map(Vec<Entry>),
    /// What could not be read, about which a finding exists already.
    Unreadable,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: At<String>,
    pub(super) value: Node,
}

impl Node {
    /// What the node is, for messages.
    pub(super) const fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar { looks_like: Some(what), .. } => what,
            Kind::Scalar { .. } => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Unreadable => "unreadable",
        }
    }
}

/// Reads one document. `None` if nothing can be made of it; every reason is among the findings.
pub(super) fn read(source: &Arc<Source>, findings: &mut Findings) -> Option<Node> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    // A byte order mark is accepted; spans count from behind it.
    let parser = Parser::new_from_str_with_options(source.text(), options);
    let mut builder = Builder { source, findings, parser, nodes: 0 };
    let root = builder.document();
    match root {
        Ok(Some(node)) => {
            source.hide(hidden_ranges(&node));
            Some(node)
        }
        Ok(None) => {
            let place = builder.place(Span::START);
            builder.findings.push(
                Diagnostic::error("empty-file", &place, "the file is empty")
                    .hint("a policy file names `secretStores`, `sandboxes` or both; an empty file would neither allow nor deny anything"),
            );
            None
        }
        Err(Stop) => None,
    }
}

/// The finding is recorded already.
struct Stop;

struct Builder<'s, 'f> {
    source: &'s Arc<Source>,
    findings: &'f mut Findings,
    parser: Parser<'s, StrInput<'s>>,
    nodes: usize,
}

impl<'s> Builder<'s, '_> {
    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum may grow")]
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_none() => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                Event::DocumentStart(..) => {
                    let message = "the file holds more than one document";
                    return Err(self.stop(
                        "several-documents",
                        span,
                        message,
                        "one file, one document: remove the `---`",
                    ));
                }
                _ => break,
            }
        }
        Ok(root.filter(|node| !is_blank(node)))
    }

    fn next(&mut self) -> Result<(Event<'s>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, from_parser(span.start, span.end))),
            Some(Err(error)) => {
                let mark = *error.marker();
                let message = format!("the YAML cannot be read: {}", error.info());
                if self.is_bare_star(from_parser(mark, mark).start) {
                    let hint = "put it in quotes: \"*\"";
                    return Err(self.stop(
                        "alias",
                        from_parser(mark, mark),
                        "outside of quotes, `*` starts a YAML alias",
                        hint,
                    ));
                }
                Err(self.stop(
                    "syntax",
                    from_parser(mark, mark),
                    &message,
                    "check indentation, quotes and brackets at this place and on the line before",
                ))
            }
            None => Ok((Event::StreamEnd, Span::START)),
        }
    }

    /// Whether a `*` stands at a place or right before it.
    fn is_bare_star(&self, at: usize) -> bool {
        let text = self.source.text().as_bytes();
        [at, at.saturating_sub(1)].iter().any(|at| text.get(*at) == Some(&b'*'))
    }

    fn node(&mut self, event: Event<'s>, span: Span, depth: usize) -> Result<Node, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            return Err(self.stop(
                "too-large",
                span,
                "the file holds too many or too deeply nested nodes",
                "a policy needs no more than eight levels",
            ));
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum may grow")]
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_properties(span, anchor, tag.is_some());
                let looks_like = match style {
                    ScalarStyle::Plain => typed(&text),
                    ScalarStyle::SingleQuoted
                    | ScalarStyle::DoubleQuoted
                    | ScalarStyle::Literal
                    | ScalarStyle::Folded => None,
                };
                if text.contains('\0') {
                    self.error("nul", span, "a string holds a NUL character", "remove it");
                }
                let kind = Kind::Scalar { text: text.into_owned(), looks_like };
                Ok(Node { place: self.place(span), kind })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_properties(span, anchor, tag.is_some());
                self.list(span, depth)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_properties(span, anchor, tag.is_some());
                self.map(span, depth)
            }
            Event::UnresolvedAlias(_) => {
                let hint = "put a pattern that starts with `*` in quotes: \"*.example.com\"";
                self.error("alias", span, "outside of quotes, `*` starts a YAML alias", hint);
                Ok(Node { place: self.place(span), kind: Kind::Unreadable })
            }
            Event::Alias(_) => {
                let hint = "write the value out; what several sandboxes share belongs into a store of its own";
                self.error("alias", span, "aliases are not read", hint);
                Ok(Node { place: self.place(span), kind: Kind::Unreadable })
            }
            _ => Err(self.stop("syntax", span, "a value is missing here", "write it")),
        }
    }

    fn list(&mut self, start: Span, depth: usize) -> Result<Node, Stop> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node {
                    place: self.place(Span { end: span.end.max(start.end), ..start }),
                    kind: Kind::List(items),
                });
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, start: Span, depth: usize) -> Result<Node, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Node {
                    place: self.place(Span { end: span.end.max(start.end), ..start }),
                    kind: Kind::Map(entries),
                });
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Some(key) = self.key(key) else { continue };
            if let Some(first) = seen.get(&key.value) {
                self.findings.push(
                    Diagnostic::error(
                        "duplicate-key",
                        &key.place,
                        format!("the key `{}` is written twice", shown(&key.value)),
                    )
                    .related(first, "the first one")
                    .hint("keep one of the two; readers differ in which one they take"),
                );
                continue;
            }
            seen.insert(key.value.clone(), key.place.clone());
            entries.push(Entry { key, value });
        }
    }

    fn key(&mut self, key: Node) -> Option<At<String>> {
        let span = key.place.span;
        match key.kind {
            Kind::Scalar { text, looks_like: None } if text == "<<" => {
                self.error("merge-key", span, "merge keys are not read", "write the fields out; what several sandboxes share belongs into a store of its own");
                None
            }
            Kind::Scalar { text, looks_like: None } => Some(At { value: text, place: key.place }),
            Kind::Scalar { looks_like: Some(what), .. } => {
                self.error(
                    "not-a-string",
                    span,
                    &format!("this key reads as {what}, not as a string"),
                    "put it in quotes",
                );
                None
            }
            Kind::Unreadable => None,
            Kind::List(_) | Kind::Map(_) => {
                self.error(
                    "not-a-string",
                    span,
                    "a key is a string",
                    "remove the `?`, the brackets or the braces",
                );
                None
            }
        }
    }

    fn check_properties(&mut self, span: Span, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.error(
                "anchor",
                span,
                "anchors are not read",
                "remove the `&name`; what several sandboxes share belongs into a store of its own",
            );
        }
        if tag {
            self.error(
                "tag",
                span,
                "tags are not read",
                "remove the `!tag`; a string that looks like something else goes in quotes",
            );
        }
    }

    fn error(&mut self, code: &'static str, span: Span, message: &str, hint: &str) {
        let place = self.place(span);
        self.findings.push(Diagnostic::error(code, &place, message).hint(hint));
    }

    fn stop(&mut self, code: &'static str, span: Span, message: &str, hint: &str) -> Stop {
        self.error(code, span, message, hint);
        Stop
    }

    fn place(&self, span: Span) -> Place {
        Place { source: self.source.clone(), span }
    }
}

fn from_parser(start: granit_parser::Marker, end: granit_parser::Marker) -> Span {
    let first = start.byte_offset().unwrap_or(0);
    Span {
        start: first,
        end: end.byte_offset().unwrap_or(first).max(first),
        line: start.line().max(1),
        column: start.col() + 1,
    }
}

fn is_blank(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar { text, looks_like: Some(_) } if text.is_empty())
}

/// A key as a message may show it: bounded and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}

/// What a plain scalar is to some reader of YAML 1.1 or 1.2, if not a string.
fn typed(text: &str) -> Option<&'static str> {
    let folded = text.to_ascii_lowercase();
    let unsigned = folded.strip_prefix(['+', '-']).unwrap_or(&folded);
    let all = |digits: &str, of: fn(char) -> bool| {
        !digits.is_empty() && digits.chars().all(|c| of(c) || c == '_')
    };
    let prefixed = |prefix: &str, of: fn(char) -> bool| {
        unsigned.strip_prefix(prefix).is_some_and(|digits| all(digits, of))
    };
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.replace('_', "").parse::<f64>().is_ok();
    let sexagesimal = unsigned.contains(':')
        && unsigned.split([':', '.']).all(|part| all(part, |c| c.is_ascii_digit()));
    match folded.as_str() {
        "" | "~" | "null" => Some("null"),
        "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" => Some("a boolean"),
        _ if is_number || matches!(unsigned, ".inf" | ".nan") => Some("a number"),
        _ if prefixed("0x", |c| c.is_ascii_hexdigit())
            || prefixed("0o", |c| c.is_digit(8))
            || prefixed("0b", |c| c.is_digit(2))
            || all(unsigned, |c| c.is_ascii_digit()) =>
        {
            Some("a number")
        }
        _ if sexagesimal => Some("a number in base 60"),
        _ if is_date(&folded) => Some("a date"),
        _ => None,
    }
}

/// `2026-01-31`, with or without a time behind it.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, lengths: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|p| lengths.contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    let year = digits(parts.next(), 4..=4);
    let month = digits(parts.next(), 1..=2);
    let day = parts.next().map(|rest| rest.split(['t', ' ']).next().unwrap_or(rest));
    year && month && digits(day, 1..=2)
}

/// Where secret values may stand: below every `from`, and below every key that the grammar does not know to be harmless.
fn hidden_ranges(node: &Node) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    collect_hidden(node, &mut ranges);
    ranges
}

/// Keys below which only names, hosts and rules are written.
const HARMLESS: &[&str] = &[
    "secretStores",
    "sandboxes",
    "secrets",
    "egressAllowlist",
    "egressDenylist",
    "allowedHosts",
    "locations",
    "headers",
    "header",
    "inject",
    "methods",
    "paths",
    "schemes",
    "scrub",
    "misdirected",
    "host",
    "sources",
    "policies",
    "cases",
    "name",
    "sandbox",
    "layers",
    "request",
    "expect",
    "verdict",
    "reason",
    "rule",
    "format",
    "sign",
    "scheme",
    "template",
    "encoding",
    "timestampHeader",
    "timestampUnit",
];

fn collect_hidden(node: &Node, ranges: &mut Vec<std::ops::Range<usize>>) {
    match &node.kind {
        Kind::Scalar { .. } | Kind::Unreadable => {}
        Kind::List(items) => items.iter().for_each(|item| collect_hidden(item, ranges)),
        Kind::Map(entries) => {
            for Entry { key, value } in entries {
                let harmless = HARMLESS.contains(&key.value.as_str());
                let is_map = matches!(value.kind, Kind::Map(_));
                if key.value == "from" || (!is_map && !harmless) {
                    ranges.push(key.place.span.start..last_byte(value).max(key.place.span.end));
                } else {
                    collect_hidden(value, ranges);
                }
            }
        }
    }
}

/// Behind the last scalar of a node; a block collection's own end lies on a later line.
fn last_byte(node: &Node) -> usize {
    let own = match &node.kind {
        Kind::Scalar { .. } | Kind::Unreadable => node.place.span.end,
        Kind::List(items) => items.iter().map(last_byte).max().unwrap_or_default(),
        Kind::Map(entries) => {
            entries.iter().map(|entry| last_byte(&entry.value)).max().unwrap_or_default()
        }
    };
    own.max(node.place.span.start)
}
