//! `sign` as written: the scheme, and what goes with the secret that it signs with.

use super::super::diagnostic::{At, Diagnostic, Findings};
use super::super::yaml::{Kind, Node, shown};
use super::fields::{Fields, Grammar, nearest, text};
use super::secret::{header, parts_around};
use crate::secret::{HmacRule, SecretName, SignatureEncoding, SignedPart, TimestampUnit};

/// How requests are signed, before the names are looked up.
#[derive(Debug)]
pub(in crate::policy) enum WrittenSign {
    /// `sign: aws-sigv4`: the usual names.
    UsualAws,
    /// With names of their own.
    Aws { access_key_id: At<SecretName>, session_token: Option<At<SecretName>> },
    /// An HMAC in a header field.
    Hmac(HmacRule),
}

const AWS: Grammar = Grammar {
    what: "`sign` with `scheme: aws-sigv4`",
    known: &["scheme", "accessKeyId", "sessionToken"],
    later: &[],
};
const HMAC: Grammar = Grammar {
    what: "`sign` with `scheme: hmac`",
    known: &[
        "scheme",
        "header",
        "template",
        "encoding",
        "format",
        "timestampHeader",
        "timestampUnit",
    ],
    later: &[],
};
const SCHEMES: [&str; 2] = ["aws-sigv4", "hmac"];
const SCHEME_HINT: &str = "sign: aws-sigv4, or sign: { scheme: hmac, header: x-signature, template: \"{timestamp}{method}{target}{body}\" }";

pub(super) fn read(node: &Node, out: &mut Findings) -> Option<WrittenSign> {
    let Kind::Map(entries) = &node.kind else {
        return match scheme(node, out)? {
            "aws-sigv4" => Some(WrittenSign::UsualAws),
            _ => {
                let message = "`hmac` needs a header and a template";
                out.push(Diagnostic::error("bad-sign", &node.place, message).hint(SCHEME_HINT));
                None
            }
        };
    };
    let Some(written) = entries.iter().find(|entry| entry.key.value == "scheme") else {
        let message = "the field `scheme` is missing";
        out.push(Diagnostic::error("missing-field", &node.place, message).hint(SCHEME_HINT));
        return None;
    };
    if scheme(&written.value, out)? == "hmac" { hmac(node, out) } else { aws(node, out) }
}

/// A secret that signs stands nowhere in a request, so nothing may say where.
pub(super) fn check_company(fields: &Fields<'_>, out: &mut Findings) {
    for field in ["locations", "headers", "inject"] {
        if fields.get(field).is_some() {
            out.push(
                Diagnostic::error(
                    "signs-and-travels",
                    fields.key_place(field),
                    format!("a secret that signs never travels, so it has no `{field}`"),
                )
                .hint("remove the field; the request gets a signature, not the value"),
            );
        }
    }
}

fn scheme<'n>(node: &'n Node, out: &mut Findings) -> Option<&'n str> {
    let written = text(node, "a scheme", out)?;
    if SCHEMES.contains(&written) {
        return Some(written);
    }
    let hint = match (written, nearest(written, &SCHEMES)) {
        ("aws-sigv4a" | "sigv4a", _) => {
            "signatures over several regions (SigV4A) are not made here; use `aws-sigv4` with the endpoint of one region".to_owned()
        }
        (_, Some(near)) => format!("did you mean `{near}`?"),
        (_, None) => "the schemes are `aws-sigv4` and `hmac`".to_owned(),
    };
    let message = format!("`{}` is not a scheme of signing", shown(written));
    out.push(Diagnostic::error("bad-sign", &node.place, message).hint(hint));
    None
}

fn aws(node: &Node, out: &mut Findings) -> Option<WrittenSign> {
    let fields = Fields::read(node, &AWS, out)?;
    let access_key_id = fields
        .required("accessKeyId", "accessKeyId: AWS_ACCESS_KEY_ID", out)
        .and_then(|node| secret_name(node, out));
    let session_token = match fields.get("sessionToken") {
        Some(node) => Some(secret_name(node, out)?),
        None => None,
    };
    Some(WrittenSign::Aws { access_key_id: access_key_id?, session_token })
}

/// The name of another secret. What is written is not shown: it may be a value in the wrong place.
fn secret_name(node: &Node, out: &mut Findings) -> Option<At<SecretName>> {
    match text(node, "the name of a secret", out)?.parse() {
        Ok(value) => Some(At { value, place: node.place.clone() }),
        Err(_) => {
            out.push(
                Diagnostic::error("bad-name", &node.place, "this is not the name of a secret")
                    .hint("name a secret of this store; its value comes from its own `from`"),
            );
            None
        }
    }
}

fn hmac(node: &Node, out: &mut Findings) -> Option<WrittenSign> {
    let fields = Fields::read(node, &HMAC, out)?;
    let name =
        fields.required("header", "header: x-signature", out).and_then(|node| header(node, out));
    let template = fields
        .required("template", "template: \"{timestamp}{method}{target}{body}\"", out)
        .and_then(|node| template(node, out));
    let encoding = choice(&fields, "encoding", ENCODINGS, out);
    let unit = choice(&fields, "timestampUnit", UNITS, out);
    let format = fields.get("format").map_or_else(
        || Some((String::new(), String::new())),
        |node| parts_around("{signature}", node, out),
    );
    let timestamp_header = fields.get("timestampHeader").and_then(|node| header(node, out));
    let template = template?;
    check_timestamp(&fields, &template, out);
    Some(WrittenSign::Hmac(HmacRule {
        header: name?,
        template,
        encoding: encoding?,
        format: format?,
        timestamp_header,
        timestamp_unit: unit?,
    }))
}

/// A time that is signed must be told, and one that is told must be signed.
fn check_timestamp(fields: &Fields<'_>, template: &[SignedPart], out: &mut Findings) {
    let signed = template.contains(&SignedPart::Timestamp);
    let told = fields.get("timestampHeader").is_some();
    let (place, message, hint) = match (signed, told) {
        (true, false) => (
            fields.key_place("template"),
            "the template signs a time that the server is not told",
            "timestampHeader: x-timestamp",
        ),
        (false, true) => (
            fields.key_place("timestampHeader"),
            "the time is sent but not signed",
            "put `{timestamp}` into the template, or remove `timestampHeader`",
        ),
        (true, true) | (false, false) => return,
    };
    out.push(Diagnostic::error("bad-sign", place, message).hint(hint));
}

const ENCODINGS: [(&str, SignatureEncoding); 2] =
    [("hex", SignatureEncoding::Hex), ("base64", SignatureEncoding::Base64)];
const UNITS: [(&str, TimestampUnit); 2] =
    [("seconds", TimestampUnit::Seconds), ("milliseconds", TimestampUnit::Milliseconds)];

/// One of two words; the first, if none is written.
fn choice<T: Copy>(
    fields: &Fields<'_>,
    field: &str,
    words: [(&str, T); 2],
    out: &mut Findings,
) -> Option<T> {
    let [(first, usual), (second, _)] = words;
    let Some(node) = fields.get(field) else { return Some(usual) };
    let written = text(node, field, out)?;
    let found = words.iter().find(|(word, _)| *word == written);
    if found.is_none() {
        let message = format!("`{}` is not a value of `{field}`", shown(written));
        out.push(
            Diagnostic::error("bad-sign", &node.place, message)
                .hint(format!("write `{first}` or `{second}`")),
        );
    }
    found.map(|(_, value)| *value)
}

/// Literal text and parts in braces.
fn template(node: &Node, out: &mut Findings) -> Option<Vec<SignedPart>> {
    let written = text(node, "a template", out)?;
    let mut parts = Vec::new();
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((part, after)) = after.split_once('}') else { break };
        if !before.is_empty() {
            parts.push(SignedPart::Text(before.to_owned()));
        }
        parts.push(match part {
            "method" => SignedPart::Method,
            "path" => SignedPart::Path,
            "query" => SignedPart::Query,
            "target" => SignedPart::Target,
            "timestamp" => SignedPart::Timestamp,
            "body" => SignedPart::Body,
            "body_sha256" => SignedPart::BodySha256,
            _ => break,
        });
        rest = after;
    }
    if rest.contains(['{', '}']) || parts.is_empty() {
        out.push(
            Diagnostic::error("bad-sign", &node.place, "this is not a template of what is signed")
                .hint("its parts are {method}, {path}, {query}, {target}, {timestamp}, {body} and {body_sha256}"),
        );
        return None;
    }
    if !rest.is_empty() {
        parts.push(SignedPart::Text(rest.to_owned()));
    }
    Some(parts)
}
