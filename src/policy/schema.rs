//! The JSON Schema of policy files. It says what the grammar says; what can only be judged with hosts parsed and files together is left to
//! `check`.

use serde_json::{Value, json};

/// The schema, draft 2020-12.
#[must_use]
pub fn policy_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tollgate policy",
        "type": "object",
        "additionalProperties": false,
        "minProperties": 1,
        "properties": {
            "secretStores": {
                "description": "Secret stores by name.",
                "type": "object",
                "additionalProperties": false,
                "patternProperties": { NAME: { "$ref": "#/$defs/store" } },
            },
            "sandboxes": {
                "description": "Sandboxes by id.",
                "type": "object",
                "additionalProperties": false,
                "patternProperties": { NAME: { "$ref": "#/$defs/sandbox" } },
            },
        },
        "$defs": {
            "store": store(),
            "sandbox": sandbox(),
            "secret": secret(),
            "from": from(),
            "inject": inject(),
            "sign": sign(),
            "allowEntry": allow_entry(),
            "hosts": { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/host" } },
            "host": { "description": "api.example.com, *.example.com or *, each also with :port or :*.", "type": "string", "minLength": 1 },
            "methods": { "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[A-Z-]+$" } },
            "paths": { "description": "Globs on the decoded path: * within a segment, ** across segments.", "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^/" } },
            "header": { "type": "string", "minLength": 1 },
            "secretName": { "type": "string", "pattern": "^[A-Za-z0-9_]{1,128}$" },
            "duration": { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" },
        },
    })
}

/// The names of stores and sandboxes.
const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$";

fn store() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "egressAllowlist": {
                "description": "The hosts that a sandbox with this store may reach. Left out: the store adds none.",
                "type": "array",
                "minItems": 1,
                "items": { "$ref": "#/$defs/allowEntry" },
            },
            "egressDenylist": { "description": "Beats every allow, of any layer.", "$ref": "#/$defs/hosts" },
            "misdirected": { "description": "What becomes of a sealed token in a header or URL where it may not be opened: deny (the default) refuses the request, forward sends it on sealed.", "enum": ["deny", "forward"] },
            "secrets": {
                "description": "Secrets by name, which is also the environment variable of the sealed token.",
                "type": "object",
                "additionalProperties": false,
                "patternProperties": { "^[A-Za-z0-9_]{1,128}$": { "$ref": "#/$defs/secret" } },
            },
        },
    })
}

fn sandbox() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "secretStores": { "description": "Layers, base first.", "type": "array", "minItems": 1, "items": { "type": "string", "pattern": NAME } },
            "sources": { "description": "Addresses or networks by which a gateway recognises the sandbox.", "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 2 } },
        },
    })
}

fn secret() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "anyOf": [{ "required": ["from"] }, { "required": ["preset"] }],
        "properties": {
            "preset": { "description": "A well-known credential: its hosts, headers and shape, unless fields say otherwise; without `from` it is in the variable of its own name.", "enum": super::presets::names() },
            "from": { "$ref": "#/$defs/from" },
            "allowedHosts": { "description": "Where the secret may be sent. Left out: where its own store's allowlist leads.", "$ref": "#/$defs/hosts" },
            "locations": { "description": "Where in a request its token is opened; header, if left out.", "type": "array", "minItems": 1, "items": { "enum": ["header", "query", "path", "body", "websocket"] } },
            "headers": { "description": "Only these headers may carry it.", "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/header" } },
            "placeholder": { "description": "The shape of its sealed token, where clients check it: literal text around {sealed:LENGTH} or {sealed:LENGTH:ALPHABET}.", "type": "string", "pattern": PLACEHOLDER },
            "inject": { "$ref": "#/$defs/inject" },
            "sign": { "$ref": "#/$defs/sign" },
        },
    })
}

/// Text of unreserved characters with sealed parts.
const PLACEHOLDER: &str = "^([A-Za-z0-9._~-]|\\{sealed:[0-9]+(:[A-Za-z0-9._~-]+)?\\})+$";

fn from() -> Value {
    let only = |field: &str, schema: Value| json!({ "type": "object", "additionalProperties": false, "required": [field], "properties": { field: schema } });
    let text = || json!({ "type": "string", "minLength": 1 });
    let token = |grant: &str, required: Value, more: Value| {
        let mut properties = json!({
            "tokenUrl": { "description": "The token endpoint.", "type": "string", "pattern": "^https://" },
            "clientId": text(),
            "clientSecret": { "$ref": "#/$defs/from" },
            "clientAuth": { "description": "Where the client's secret stands in the request.", "enum": ["basic", "body"] },
            "scopes": { "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[!#-\\[\\]-~]+$" } },
            "timeout": { "$ref": "#/$defs/duration" },
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut properties, more) {
            all.extend(more);
        }
        let schema = json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties });
        only(grant, schema)
    };
    json!({
        "description": "Where the value comes from.",
        "oneOf": [
            only("env", text()),
            only("file", text()),
            only("value", text()),
            {
                "type": "object",
                "additionalProperties": false,
                "required": ["command"],
                "properties": {
                    "command": { "description": "Program and arguments; no shell.", "type": "array", "minItems": 1, "items": { "type": "string" } },
                    "refresh": { "$ref": "#/$defs/duration" },
                    "timeout": { "$ref": "#/$defs/duration" },
                },
            },
            token("oauth2ClientCredentials", json!(["tokenUrl", "clientId", "clientSecret"]), json!({ "audience": text() })),
            token("oauth2RefreshToken", json!(["tokenUrl", "clientId", "refreshToken"]), json!({ "refreshToken": { "$ref": "#/$defs/from" } })),
        ],
    })
}

fn inject() -> Value {
    json!({
        "description": "Added by the proxy; the sandbox sends nothing. Needs exact allowedHosts.",
        "type": "object",
        "additionalProperties": false,
        "required": ["header", "format"],
        "properties": {
            "header": { "$ref": "#/$defs/header" },
            "format": { "type": "string", "pattern": "^[^{}]*\\{value\\}[^{}]*$" },
            "methods": { "$ref": "#/$defs/methods" },
            "paths": { "$ref": "#/$defs/paths" },
        },
    })
}

fn sign() -> Value {
    json!({
        "description": "Requests are signed with this secret, which never travels itself.",
        "oneOf": [
            { "description": "With AWS_ACCESS_KEY_ID and, if the store has it, AWS_SESSION_TOKEN.", "type": "string", "enum": ["aws-sigv4"] },
            {
                "type": "object",
                "additionalProperties": false,
                "required": ["scheme", "accessKeyId"],
                "properties": {
                    "scheme": { "type": "string", "enum": ["aws-sigv4"] },
                    "accessKeyId": { "description": "The secret of this store that holds the access key id.", "$ref": "#/$defs/secretName" },
                    "sessionToken": { "description": "The secret of this store that holds the session token.", "$ref": "#/$defs/secretName" },
                },
            },
            {
                "description": "An HMAC-SHA-256 in a header. Needs exact allowedHosts.",
                "type": "object",
                "additionalProperties": false,
                "required": ["scheme", "header", "template"],
                "properties": {
                    "scheme": { "type": "string", "enum": ["hmac"] },
                    "header": { "$ref": "#/$defs/header" },
                    "template": { "description": "What is signed: text around {method}, {path}, {query}, {target}, {timestamp}, {body} and {body_sha256}.", "type": "string", "minLength": 1 },
                    "encoding": { "description": "hex, if left out.", "enum": ["hex", "base64"] },
                    "format": { "type": "string", "pattern": "^[^{}]*\\{signature\\}[^{}]*$" },
                    "timestampHeader": { "description": "Carries the time that {timestamp} signs.", "$ref": "#/$defs/header" },
                    "timestampUnit": { "description": "seconds, if left out.", "enum": ["seconds", "milliseconds"] },
                },
            },
        ],
    })
}

fn allow_entry() -> Value {
    json!({
        "oneOf": [
            { "$ref": "#/$defs/host" },
            {
                "type": "object",
                "additionalProperties": false,
                "required": ["host"],
                "properties": {
                    "host": { "$ref": "#/$defs/host" },
                    "methods": { "$ref": "#/$defs/methods" },
                    "paths": { "$ref": "#/$defs/paths" },
                    "scrub": { "description": "off: answers are not searched for values, and pass as they are.", "enum": ["on", "off"] },
                    "schemes": { "type": "array", "minItems": 1, "items": { "enum": ["http", "https"] } },
                },
            },
        ],
    })
}
