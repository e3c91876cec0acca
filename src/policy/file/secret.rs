//! A secret as written: its source, where it may go, and where in a request it may stand.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::super::diagnostic::{At, Diagnostic, Findings, Place};
use super::super::yaml::{Entry, Kind, Node, shown};
use super::fields::{Fields, Grammar, items, list, nearest, text};
use super::sign::{self, WrittenSign};
use super::{host_list, name, rule, token};
use crate::host::HostPattern;
use crate::policy::presets::{self, SecretPreset};
use crate::secret::{
    HeaderRule, Inject, Locations, Placeholder, SecretName, SecretValue, SourceSpec,
};

/// One secret.
#[derive(Debug)]
pub(in crate::policy) struct WrittenSecret {
    pub(in crate::policy) name: At<SecretName>,
    pub(in crate::policy) source: At<SourceSpec>,
    pub(in crate::policy) hosts: Option<Vec<At<HostPattern>>>,
    pub(in crate::policy) locations: Locations,
    /// Whether `locations` or `headers` say so.
    pub(in crate::policy) places_written: bool,
    pub(in crate::policy) inject: Option<At<Inject>>,
    pub(in crate::policy) sign: Option<At<WrittenSign>>,
    pub(in crate::policy) placeholder: Option<Placeholder>,
    /// What opens hosts for it in its store's allowlist; none where it names its hosts itself.
    pub(in crate::policy) preset: Option<At<&'static SecretPreset>>,
}

impl WrittenSecret {
    /// Where it says that the proxy writes a header without being asked.
    pub(in crate::policy) fn written_by_the_proxy(&self) -> Option<&Place> {
        let signs = |sign: &&At<WrittenSign>| matches!(sign.value, WrittenSign::Hmac(_));
        let sign = self.sign.as_ref().filter(signs).map(|sign| &sign.place);
        self.inject.as_ref().map(|inject| &inject.place).or(sign)
    }
}

const SECRET: Grammar = Grammar {
    what: "a secret",
    known: &[
        "preset",
        "from",
        "allowedHosts",
        "locations",
        "headers",
        "placeholder",
        "inject",
        "sign",
    ],
    later: &[],
};
const FROM: Grammar = Grammar {
    what: "a source",
    known: &[
        "env",
        "file",
        "command",
        "value",
        "oauth2ClientCredentials",
        "oauth2RefreshToken",
        "refresh",
        "timeout",
    ],
    later: &[],
};
const INJECT: Grammar =
    Grammar { what: "`inject`", known: &["header", "format", "methods", "paths"], later: &[] };

/// How long a command may take, if the file does not say.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn read(entry: &Entry, folder: &Path, out: &mut Findings) -> Option<WrittenSecret> {
    let name = name(entry, out);
    let fields = Fields::read(&entry.value, &SECRET, out)?;
    let preset = fields.get("preset").and_then(|node| preset(node, out));
    let source = match (fields.get("preset"), fields.get("from")) {
        (Some(_), None) => from_its_variable(&fields, name.as_ref()),
        _ => fields
            .required("from", "from: { env: NAME }, or file, command, value", out)
            .and_then(|node| source(node, folder, out)),
    };
    let hosts = fields.get("allowedHosts").map(|node| {
        let hint = "leave the field out, and the secret goes to its own store's egressAllowlist; or list its hosts";
        host_list(node, "`allowedHosts`", hint, out)
    });
    let sign = match fields.get("sign") {
        Some(node) => {
            sign::read(node, out).map(|value| At { value, place: fields.key_place("sign").clone() })
        }
        None => preset
            .as_ref()
            .filter(|preset| preset.value.signs)
            .map(|preset| At { value: WrittenSign::UsualAws, place: preset.place.clone() }),
    };
    if sign.is_some() || fields.get("sign").is_some() {
        sign::check_company(&fields, out);
    }
    let places_written = fields.get("locations").or_else(|| fields.get("headers")).is_some();
    let locations =
        if sign.is_some() { Locations::NONE } else { locations(&fields, preset.as_ref(), out) };
    let inject = fields.get("inject").and_then(|node| {
        Some(At { value: inject(node, out)?, place: fields.key_place("inject").clone() })
    });
    let placeholder = match fields.get("placeholder") {
        Some(node) => placeholder(node, out),
        None => preset.as_ref().and_then(|preset| preset.value.placeholder.clone()),
    };
    if fields.get("preset").is_some() && preset.is_none() {
        // Without its hosts it would be called unbound, which is not what is wrong.
        return None;
    }
    // Who names the hosts names what opens them, too.
    let opening = preset.clone().filter(|_| hosts.is_none());
    let hosts = hosts.or_else(|| preset.map(|preset| preset_hosts(&preset)));
    let name = name?;
    if let Some(source) = &source
        && (inject.is_some() || locations.header != HeaderRule::None)
    {
        check_value(source, out);
    }
    Some(WrittenSecret {
        name,
        source: source?,
        hosts,
        locations,
        places_written,
        inject,
        sign,
        placeholder,
        preset: opening,
    })
}

fn preset(node: &Node, out: &mut Findings) -> Option<At<&'static SecretPreset>> {
    let written = text(node, "a preset", out)?;
    if let Some(value) = presets::find(written) {
        return Some(At { value, place: node.place.clone() });
    }
    let names = presets::names();
    let hint = match nearest(written, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", names.join(", ")),
    };
    let message = format!("there is no preset `{}`", shown(written));
    out.push(Diagnostic::error("unknown-preset", &node.place, message).hint(hint));
    None
}

/// A secret of a preset that names no source is in the variable of its own name.
fn from_its_variable(fields: &Fields<'_>, name: Option<&At<SecretName>>) -> Option<At<SourceSpec>> {
    let value = SourceSpec::Env(name?.value.to_string());
    Some(At { value, place: fields.key_place("preset").clone() })
}

fn preset_hosts(preset: &At<&'static SecretPreset>) -> Vec<At<HostPattern>> {
    let at = |host: &HostPattern| At { value: host.clone(), place: preset.place.clone() };
    preset.value.hosts.iter().map(at).collect()
}

fn locations(
    fields: &Fields<'_>,
    preset: Option<&At<&'static SecretPreset>>,
    out: &mut Findings,
) -> Locations {
    if let Some(preset) = preset
        && fields.get("locations").is_none()
        && fields.get("headers").is_none()
    {
        return preset.value.locations.clone();
    }
    let mut locations = fields.get("locations").map_or_else(Locations::default, |node| {
        let hint = "leave the field out, and the secret may stand in headers";
        let mut named = Locations::NONE;
        for item in list(node, "`locations`", hint, out).unwrap_or_default() {
            location(item, &mut named, out);
        }
        named
    });
    let Some(node) = fields.get("headers") else { return locations };
    let hint = "leave the field out, and every header may carry the secret but those that servers like to echo";
    let nodes = list(node, "`headers`", hint, out).unwrap_or_default();
    let names = items(nodes, out, header).into_iter().map(|name| name.value).collect();
    if locations.header == HeaderRule::None {
        let message = "`headers` names fields, but `locations` does not list `header`";
        out.push(
            Diagnostic::error("no-header-location", fields.key_place("headers"), message)
                .hint("add `header` to the `locations`, or remove `headers`"),
        );
    }
    locations.header = HeaderRule::Only(names);
    locations
}

fn location(item: &Node, named: &mut Locations, out: &mut Findings) {
    match text(item, "a location", out) {
        None => {}
        Some("header") => named.header = HeaderRule::Usual,
        Some("query") => named.query = true,
        Some("path") => named.path = true,
        Some("body") => named.body = true,
        Some("websocket") => named.websocket = true,
        Some(other) => out.push(
            Diagnostic::error(
                "bad-location",
                &item.place,
                format!("`{}` is not a location", shown(other)),
            )
            .hint("locations are `header`, `query`, `path`, `body` and `websocket`"),
        ),
    }
}

fn placeholder(node: &Node, out: &mut Findings) -> Option<Placeholder> {
    match text(node, "a placeholder", out)?.parse::<Placeholder>() {
        Ok(shape) => Some(shape),
        Err(error) => {
            out.push(
                Diagnostic::error("bad-placeholder", &node.place, error.to_string())
                    .hint(error.hint()),
            );
            None
        }
    }
}

fn source(node: &Node, folder: &Path, out: &mut Findings) -> Option<At<SourceSpec>> {
    let fields = Fields::read(node, &FROM, out)?;
    let kinds: Vec<&str> = ["env", "file", "command", "value"]
        .into_iter()
        .chain(token::KINDS)
        .filter(|kind| fields.get(kind).is_some())
        .collect();
    let [kind] = *kinds.as_slice() else {
        if kinds.is_empty() && fields.has_strangers() {
            return None;
        }
        out.push(
            Diagnostic::error("bad-source-of-secret", &node.place, format!("a source is exactly one of `env`, `file`, `command`, `value`, `oauth2ClientCredentials` and `oauth2RefreshToken`, and this has {}", kinds.len()))
                .hint("from: { env: NAME }"),
        );
        return None;
    };
    let refresh = duration(
        &fields,
        "refresh",
        Duration::from_secs(1)..=Duration::from_secs(30 * 86_400),
        out,
    );
    let timeout =
        duration(&fields, "timeout", Duration::from_millis(100)..=Duration::from_secs(300), out);
    if kind != "command" {
        for field in ["refresh", "timeout"] {
            if fields.get(field).is_some() {
                out.push(
                    Diagnostic::error(
                        "bad-source-of-secret",
                        fields.key_place(field),
                        format!("`{field}` belongs to `command`"),
                    )
                    .hint("remove it"),
                );
            }
        }
    }
    let node = fields.get(kind)?;
    let spec = match kind {
        "env" => {
            SourceSpec::Env(filled(node, "the name of an environment variable", out)?.to_owned())
        }
        "file" => SourceSpec::File(folder.join(filled(node, "the path of a file", out)?)),
        "command" => SourceSpec::Command {
            argv: argv(node, out)?,
            refresh,
            timeout: timeout.unwrap_or(COMMAND_TIMEOUT),
        },
        "value" => value(node, fields.key_place("value"), out)?,
        kind => token::read(kind, node, folder, out)?,
    };
    let place = fields.key_place(kind).clone();
    Some(At { value: spec, place })
}

/// The source of what buys an access token: not another access token.
pub(super) fn plain_source(node: &Node, folder: &Path, out: &mut Findings) -> Option<SourceSpec> {
    let source = source(node, folder, out)?;
    if matches!(source.value, SourceSpec::Token(_)) {
        out.push(
            Diagnostic::error(
                "bad-source-of-secret",
                &source.place,
                "what buys an access token does not come from a token endpoint itself",
            )
            .hint("{ env: NAME }, { file: PATH } or { command: [PROGRAM] }"),
        );
        return None;
    }
    Some(source.value)
}

/// A string that is not empty, and holds no NUL.
pub(super) fn filled<'n>(node: &'n Node, what: &str, out: &mut Findings) -> Option<&'n str> {
    let written = text(node, what, out)?;
    if written.is_empty() || written.contains('\0') {
        out.push(
            Diagnostic::error(
                "empty-string",
                &node.place,
                format!("{what} is empty or holds a NUL"),
            )
            .hint("write it, or choose another source"),
        );
        return None;
    }
    Some(written)
}

fn argv(node: &Node, out: &mut Findings) -> Option<Vec<String>> {
    if matches!(node.kind, Kind::Scalar { .. }) {
        out.push(
            Diagnostic::error(
                "wrong-kind",
                &node.place,
                "a command is a list of the program and its arguments; there is no shell",
            )
            .hint("command: [op, read, \"op://dev/anthropic/key\"]"),
        );
        return None;
    }
    let nodes = list(node, "`command`", "command: [program, argument]", out)?;
    let words: Vec<_> =
        nodes.iter().filter_map(|node| text(node, "an argument", out).map(str::to_owned)).collect();
    if words.first().is_some_and(String::is_empty) {
        out.push(
            Diagnostic::error("empty-string", &node.place, "the program's name is empty")
                .hint("command: [program, argument]"),
        );
    }
    (words.len() == nodes.len() && !words.is_empty()).then_some(words)
}

/// A literal value; no message ever quotes it.
fn value(node: &Node, key: &Place, out: &mut Findings) -> Option<SourceSpec> {
    let written = text(node, "a value", out)?;
    match SecretValue::new(written.into()) {
        Ok(value) => {
            out.push(
                Diagnostic::warning(
                    "literal-value",
                    key,
                    "the value is written in the policy file: for tests and demos only",
                )
                .hint("from: { env: NAME }, { file: PATH } or { command: [PROGRAM] }"),
            );
            Some(SourceSpec::Value(Arc::new(value)))
        }
        Err(error) => {
            out.push(
                Diagnostic::error("bad-value", key, error.to_string())
                    .hint("write the value in quotes, or choose another source"),
            );
            None
        }
    }
}

fn check_value(source: &At<SourceSpec>, out: &mut Findings) {
    let SourceSpec::Value(value) = &source.value else { return };
    if !value.fits_header() {
        out.push(
            Diagnostic::error("bad-value", &source.place, "the value cannot stand in a header: it holds a control character, or starts or ends with a space")
                .hint("a block scalar ends with a newline unless it starts with `|-`"),
        );
    }
}

pub(super) fn duration(
    fields: &Fields<'_>,
    field: &str,
    bounds: std::ops::RangeInclusive<Duration>,
    out: &mut Findings,
) -> Option<Duration> {
    let node = fields.get(field)?;
    // A bare number is a frequent mistake and gets the duration's own hint.
    let written = match &node.kind {
        Kind::Scalar { text, .. } => text.as_str(),
        Kind::List(_) | Kind::Map(_) | Kind::Unreadable => "",
    };
    let parsed = parse_duration(written);
    if let Some(duration) = parsed
        && bounds.contains(&duration)
    {
        return Some(duration);
    }
    let (from, to) = (bounds.start(), bounds.end());
    out.push(
        Diagnostic::error(
            "bad-duration",
            &node.place,
            format!("`{field}` is a duration from {from:?} to {}s", to.as_secs()),
        )
        .hint("write a whole number with its unit: 500ms, 30s, 10m, 1h"),
    );
    None
}

/// `500ms`, `30s`, `10m`, `1h`, `1d`.
fn parse_duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let number: u64 = number.parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// Fields that frame the message, name its destination, or belong to one connection (RFC 9110 §7.6.1).
const NEVER: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
];

pub(super) fn header(node: &Node, out: &mut Findings) -> Option<HeaderName> {
    let written = text(node, "a header", out)?;
    let lower = written.to_ascii_lowercase();
    let hint = match HeaderName::from_bytes(lower.as_bytes()) {
        Ok(name) if !NEVER.contains(&lower.as_str()) && !lower.starts_with("proxy-") => {
            return Some(name);
        }
        Ok(_) => {
            "this header frames the message or belongs to one connection; it never carries a secret"
        }
        Err(_) => "write a header's name, such as authorization or x-api-key",
    };
    out.push(
        Diagnostic::error(
            "bad-header",
            &node.place,
            format!("`{}` is not a header that can carry a secret", shown(written)),
        )
        .hint(hint),
    );
    None
}

fn inject(node: &Node, out: &mut Findings) -> Option<Inject> {
    let fields = Fields::read(node, &INJECT, out)?;
    let name =
        fields.required("header", "header: authorization", out).and_then(|node| header(node, out));
    let format = fields
        .required("format", "format: \"Bearer {value}\"", out)
        .and_then(|node| format_parts(node, out));
    let (methods, paths) = rule::methods_and_paths(&fields, out);
    let (prefix, suffix) = format?;
    Some(Inject { header: name?, prefix, suffix, methods, paths })
}

/// What stands in front of and behind the one `{value}`.
fn format_parts(node: &Node, out: &mut Findings) -> Option<(String, String)> {
    parts_around("{value}", node, out)
}

/// What stands in front of and behind the one placeholder of a format.
pub(super) fn parts_around(
    placeholder: &str,
    node: &Node,
    out: &mut Findings,
) -> Option<(String, String)> {
    let written = text(node, "a format", out)?;
    let hint = match written.split_once(placeholder) {
        None if placeholder == "{value}" => "it holds `{value}` once: \"Bearer {value}\"",
        None => "it holds `{signature}` once: \"sha256={signature}\"",
        Some((_, suffix)) if suffix.contains(placeholder) => {
            "it holds its placeholder once, and this has it more often"
        }
        Some((prefix, suffix)) if [prefix, suffix].iter().any(|part| part.contains(['{', '}'])) => {
            "there is one placeholder, and there are no other braces"
        }
        Some((prefix, suffix))
            if prefix.starts_with(' ')
                || suffix.ends_with(' ')
                || written.chars().any(|c| !(' '..='~').contains(&c)) =>
        {
            "a header's value is printable ASCII, without spaces at its ends"
        }
        Some((prefix, suffix)) => return Some((prefix.to_owned(), suffix.to_owned())),
    };
    out.push(
        Diagnostic::error("bad-format", &node.place, "this is not a format for a header's value")
            .hint(hint),
    );
    None
}
