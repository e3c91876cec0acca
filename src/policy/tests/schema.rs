//! The JSON Schema against the grammar: it accepts what is shipped, and refuses what `check` refuses in shape.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::diagnostic::{Findings, Source};
use super::super::yaml::{self, Kind, Node};
use super::*;

/// The keywords that our schema uses, and no others.
fn accepts(schema: &Value, root: &Value, value: &Value) -> bool {
    let reference = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/"));
    let any_of = schema["oneOf"].as_array();
    let one = any_of
        .is_none_or(|all| all.iter().filter(|schema| accepts(schema, root, value)).count() == 1);
    let any = schema["anyOf"]
        .as_array()
        .is_none_or(|all| all.iter().any(|schema| accepts(schema, root, value)));
    let kind = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        _ => true,
    };
    let listed = schema["enum"].as_array().is_none_or(|words| words.contains(value));
    let length = value
        .as_array()
        .is_none_or(|items| items.len() as u64 >= schema["minItems"].as_u64().unwrap_or(0));
    let items = value.as_array().is_none_or(|items| {
        schema.get("items").is_none_or(|of| items.iter().all(|item| accepts(of, root, item)))
    });
    let fields = value.as_object().is_none_or(|fields| {
        let required = schema["required"].as_array().into_iter().flatten();
        let property = |(name, value): (&String, &Value)| match schema["properties"].get(name) {
            Some(schema) => accepts(schema, root, value),
            None => schema["patternProperties"].as_object().map_or_else(
                || schema.get("additionalProperties").is_none(),
                |patterns| patterns.values().all(|schema| accepts(schema, root, value)),
            ),
        };
        required.into_iter().all(|name| fields.contains_key(name.as_str().unwrap()))
            && fields.iter().all(property)
    });
    let referenced = reference.is_none_or(|name| accepts(&root["$defs"][name], root, value));
    one && any && kind && listed && length && items && fields && referenced
}

fn to_json(node: &Node) -> Value {
    match &node.kind {
        Kind::Scalar { text, looks_like: None } => json!(text),
        Kind::Scalar { .. } | Kind::Unreadable => Value::Null,
        Kind::List(items) => items.iter().map(to_json).collect(),
        Kind::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.value.clone(), to_json(&entry.value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn schema_accepts(text: &str) -> bool {
    let root =
        yaml::read(&Arc::new(Source::new("p.yaml", text)), &mut Findings::default()).unwrap();
    let schema = policy_schema();
    accepts(&schema, &schema, &to_json(&root))
}

#[test]
fn the_schema_accepts_every_shipped_policy() {
    for path in
        shipped::files().into_iter().filter(|path| !path.to_str().unwrap().contains(".test."))
    {
        assert!(schema_accepts(&std::fs::read_to_string(&path).unwrap()), "{}", path.display());
    }
}

#[test]
fn the_schema_refuses_what_check_refuses_in_shape() {
    for text in [
        "secretstores: {}",
        "secretStores: { s: { egressAllowlist: [] } }",
        "secretStores: { s: { egressAllowlist: [{ methods: [GET] }] } }",
        "secretStores: { s: { egressAllowlist: [{ host: a.test, tls: passthrough }] } }",
        "secretStores: { s: { egressAllowlist: [{ host: a.test, scrub: 'no' }] } }",
        "secretStores: { s: { egressAllowlist: [a.test], misdirected: allow } }",
        "secretStores: { s: { secrets: { K: { from: { env: A, file: B } } } } }",
        "secretStores: { s: { secrets: { K: { allowedHosts: [a.test] } } } }",
        "secretStores: { s: { secrets: { K: { from: { env: A }, locations: [cookie] } } } }",
        "secretStores: { s: { egressAllowlist: [a.test], secrets: { K: { from: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a } } } } } }",
        "secretStores: { s: { egressAllowlist: [a.test], secrets: { K: { from: { oauth2ClientCredentials: { tokenUrl: 'https://a.test/t', clientId: a, clientSecret: { env: A }, refreshToken: { env: B } } } } } } }",
        "sandboxes: { sb: { source: [10.0.0.1] } }",
    ] {
        assert!(!schema_accepts(text), "{text}");
        assert!(PolicySet::read(Path::new("p.yaml"), text).set.is_none(), "{text}");
    }
}

#[test]
fn what_lifts_a_rule_loads_with_a_warning() {
    for (text, code) in [
        ("secretStores: { s: { egressAllowlist: [{ host: a.test, scrub: 'off' }] } }", "scrub-off"),
        (
            "secretStores: { s: { egressAllowlist: [a.test], misdirected: forward } }",
            "misdirected-forward",
        ),
    ] {
        assert!(schema_accepts(text), "{text}");
        let loaded = PolicySet::read(Path::new("p.yaml"), text);
        assert!(loaded.set.is_some());
        let codes: Vec<_> = loaded.diagnostics.iter().map(|found| found.code).collect();
        assert_eq!(codes, [code]);
        assert!(loaded.diagnostics[0].hint.is_some());
    }
    for text in [
        "secretStores: { s: { egressAllowlist: [{ host: a.test, scrub: 'on' }] } }",
        "secretStores: { s: { egressAllowlist: [a.test], misdirected: deny } }",
    ] {
        assert!(PolicySet::read(Path::new("p.yaml"), text).diagnostics.is_empty(), "{text}");
    }
}

#[test]
fn the_schema_accepts_token_endpoints_with_all_their_fields() {
    let common = "tokenUrl: 'https://login.test/token', clientId: app, clientAuth: body, scopes: [read, 'https://a.test/x'], timeout: 5s";
    for source in [
        format!("oauth2ClientCredentials: {{ {common}, clientSecret: {{ file: /run/s }}, audience: 'https://a.test/' }}"),
        format!("oauth2RefreshToken: {{ {common}, refreshToken: {{ command: [pass, show] }}, clientSecret: {{ env: S }} }}"),
        "oauth2RefreshToken: { tokenUrl: 'https://login.test/token', clientId: app, refreshToken: { env: R } }".to_owned(),
    ] {
        let text = format!("secretStores: {{ s: {{ egressAllowlist: [a.test], secrets: {{ K: {{ from: {{ {source} }} }} }} }} }}");
        assert!(schema_accepts(&text), "{text}");
        let loaded = PolicySet::read(Path::new("p.yaml"), &text);
        assert!(loaded.set.is_some() && loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    }
}

#[test]
fn the_schema_accepts_every_location_and_a_shape() {
    let text = "secretStores: { s: { egressAllowlist: [a.test], secrets: { K: { from: { env: A }, locations: [header, query, path, body, websocket], placeholder: 'ghp_{sealed:36}' } } } }";
    assert!(schema_accepts(text));
    let set = PolicySet::read(Path::new("p.yaml"), text).set.unwrap();
    let secret = set.secret(&"s".parse().unwrap(), &"K".parse().unwrap()).unwrap();
    let locations = &secret.bound.locations;
    assert!(locations.query && locations.path && locations.body && locations.websocket);
    assert_eq!(locations.header, crate::secret::HeaderRule::Usual);
    assert_eq!(secret.bound.placeholder.as_ref().unwrap().to_string(), "ghp_{sealed:36}");
}
