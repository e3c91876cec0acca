//! A secret that Tollgate fetches from a token endpoint, as written.

use std::path::Path;
use std::time::Duration;

use super::super::diagnostic::{Diagnostic, Findings};
use super::super::yaml::Node;
use super::fields::{Fields, Grammar, items, list, parsed, text};
use super::secret::{duration, filled, plain_source};
use crate::secret::{ClientAuth, Grant, SourceSpec, TokenSource, TokenUrl};

/// The two fields of a source that name a token endpoint.
pub(super) const KINDS: [&str; 2] = ["oauth2ClientCredentials", "oauth2RefreshToken"];

const CLIENT_CREDENTIALS: Grammar = Grammar {
    what: "`oauth2ClientCredentials`",
    known: &["tokenUrl", "clientId", "clientSecret", "clientAuth", "scopes", "audience", "timeout"],
    later: &[],
};
const REFRESH_TOKEN: Grammar = Grammar {
    what: "`oauth2RefreshToken`",
    known: &[
        "tokenUrl",
        "clientId",
        "clientSecret",
        "clientAuth",
        "refreshToken",
        "scopes",
        "timeout",
    ],
    later: &[],
};

/// How long a token endpoint may take, if the file does not say.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn read(
    kind: &str,
    node: &Node,
    folder: &Path,
    out: &mut Findings,
) -> Option<SourceSpec> {
    let refreshes = kind == "oauth2RefreshToken";
    let grammar = if refreshes { &REFRESH_TOKEN } else { &CLIENT_CREDENTIALS };
    let fields = Fields::read(node, grammar, out)?;
    let url = fields
        .required("tokenUrl", "tokenUrl: https://login.example.com/oauth/token", out)
        .and_then(|node| parsed::<TokenUrl>(node, "the URL of a token endpoint", "bad-url", out));
    let client_id = fields
        .required("clientId", "clientId: the name under which Tollgate is registered", out)
        .and_then(|node| filled(node, "a client id", out));
    let bought_with = |field: &str, required: bool, out: &mut Findings| {
        let hint = format!("{field}: {{ env: NAME }}, or file, command");
        let node = if required { fields.required(field, &hint, out) } else { fields.get(field) };
        match node {
            Some(node) => plain_source(node, folder, out).map(Some),
            None => (!required).then_some(None),
        }
    };
    let client_secret = bought_with("clientSecret", !refreshes, out);
    let refresh_token = bought_with("refreshToken", refreshes, out);
    let client_auth = client_auth(&fields, out);
    let scopes = scopes(&fields, out);
    let audience = fields.get("audience").map(|node| filled(node, "an audience", out));
    let timeout =
        duration(&fields, "timeout", Duration::from_millis(100)..=Duration::from_secs(60), out);
    let grant = match refresh_token? {
        Some(token) => Grant::RefreshToken(token),
        None => Grant::ClientCredentials { audience: audience.flatten().map(str::to_owned) },
    };
    Some(SourceSpec::Token(Box::new(TokenSource {
        url: url?.value,
        client_id: client_id?.to_owned(),
        client_secret: client_secret?,
        client_auth,
        grant,
        scopes,
        timeout: timeout.unwrap_or(TIMEOUT),
    })))
}

fn client_auth(fields: &Fields<'_>, out: &mut Findings) -> ClientAuth {
    let Some(node) = fields.get("clientAuth") else { return ClientAuth::Basic };
    match text(node, "`clientAuth`", out) {
        Some("body") => return ClientAuth::Body,
        Some("basic") | None => {}
        Some(_) => out.push(
            Diagnostic::error(
                "bad-client-auth",
                &node.place,
                "the client's secret stands in the `Authorization` field or in the body",
            )
            .hint("clientAuth: basic (the default), or body"),
        ),
    }
    ClientAuth::Basic
}

fn scopes(fields: &Fields<'_>, out: &mut Findings) -> Vec<String> {
    let Some(node) = fields.get("scopes") else { return Vec::new() };
    let hint = "leave the field out, and the endpoint chooses";
    let nodes = list(node, "`scopes`", hint, out).unwrap_or_default();
    items(nodes, out, scope).into_iter().map(|scope| scope.value).collect()
}

/// RFC 6749 §3.3: printable ASCII but for blanks, quotes and backslashes.
fn scope(node: &Node, out: &mut Findings) -> Option<String> {
    let written = filled(node, "a scope", out)?;
    if written.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        return Some(written.to_owned());
    }
    out.push(
        Diagnostic::error("bad-scope", &node.place, "a scope is one word")
            .hint("list several: scopes: [read, write]"),
    );
    None
}
