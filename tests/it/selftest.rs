//! `tollgate selftest`, as a person starts it: every place arrives and comes back sealed, or the exit status is 1.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const REAL: &str = "real-value-of-the-selftest-0123456789";

const POLICY: &str = r#"
secretStores:
  base:
    egressAllowlist:
      - api.example.com
      - "*.wild.example.com"
      - { host: narrow.example.com:8443, methods: [PUT], paths: ["/v1/*/items/**"] }
    secrets:
      EVERYWHERE:
        from: { env: SOURCE_OF_EVERYWHERE }
        allowedHosts: [api.example.com, "*.wild.example.com", "narrow.example.com:8443"]
        locations: [header, query, path, body]
        placeholder: "ghp_{sealed:36}"
      NAMED:
        from: { env: SOURCE_OF_NAMED }
        allowedHosts: [api.example.com]
        headers: [x-api-key, authorization]
      INJECTED:
        from: { file: key.txt }
        allowedHosts: [api.example.com]
        inject: { header: x-injected, format: "Key {value}!", paths: ["/only/*"], methods: [POST] }
  open:
    secrets:
      ANYWHERE: { from: { env: SOURCE_OF_NAMED }, allowedHosts: ["*"] }
sandboxes:
  sb-base: { secretStores: [base], sources: [10.20.0.5] }
  sb-open: { secretStores: [open] }
"#;

fn folder(policy: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    std::fs::write(folder.path().join("policies/policy.yaml"), policy).unwrap();
    std::fs::write(folder.path().join("policies/key.txt"), format!("{REAL}-of-a-file\n")).unwrap();
    folder
}

fn selftest(folder: &Path, arguments: &[&str]) -> Output {
    selftest_with(folder, arguments, &[])
}

fn selftest_with(folder: &Path, arguments: &[&str], sources: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.current_dir(folder).env_clear().env("TMPDIR", folder).arg("selftest").args(arguments);
    command.env("SOURCE_OF_EVERYWHERE", REAL).env("SOURCE_OF_NAMED", format!("{REAL}-named"));
    command.envs(sources.iter().copied());
    let output = command.output().unwrap();
    for said in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(said).contains(REAL), "{output:?}");
    }
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|at| at.unwrap().path()).collect();
    assert!(left.iter().all(|path| !path.to_str().unwrap().contains("tollgate-")), "{left:?}");
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Place and result of every trial of a secret at a host.
fn places(results: &Value, secret: &str, host: &str) -> Vec<(String, String)> {
    let of = |tried: &&Value| tried["secret"] == secret && tried["host"] == host;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = results["results"].as_array().unwrap().iter().filter(of);
    all.map(|tried| (text(&tried["place"]), text(&tried["result"]))).collect()
}

const EVERY_PLACE: [&str; 11] = [
    "header x-tollgate-selftest",
    "header authorization",
    "header authorization: Basic",
    "query",
    "path",
    "body text/plain",
    "body application/json",
    "body application/x-www-form-urlencoded",
    "body multipart/form-data",
    "body application/x-ndjson",
    "body application/grpc",
];

#[test]
fn every_place_of_every_secret_arrives_and_comes_back_sealed() {
    let folder = folder(POLICY);
    let output = selftest(folder.path(), &["--format", "json"]);
    let results = json(&output);
    assert!(output.status.success(), "{results:#}");
    assert_eq!(results["passed"], true);
    let ok = |place: &str| (place.to_owned(), "ok".to_owned());
    for host in ["api.example.com", "selftest.wild.example.com", "narrow.example.com:8443"] {
        assert_eq!(places(&results, "EVERYWHERE", host), EVERY_PLACE.map(ok), "{host}");
    }
    assert_eq!(
        places(&results, "NAMED", "api.example.com"),
        ["header x-api-key", "header authorization", "header authorization: Basic"].map(ok)
    );
    assert_eq!(places(&results, "INJECTED", "api.example.com"), [ok("inject x-injected")]);
    assert_eq!(places(&results, "ANYWHERE", "selftest.example.com")[0], ok(EVERY_PLACE[0]));
    for tried in results["results"].as_array().unwrap() {
        assert_eq!(tried["echo"], "sealed", "{tried}");
        assert!(tried["arrived"].as_str().unwrap().starts_with("the value (real…, "), "{tried}");
    }
}

#[test]
fn a_grpc_message_arrives_whole_with_a_value_of_another_length_than_its_token() {
    let folder = folder(
        "secretStores:\n  s:\n    egressAllowlist: [{ host: grpc.example.com, methods: [POST] }]\n    secrets: { KEY: { from: { env: LONG }, allowedHosts: [grpc.example.com], locations: [body] } }\nsandboxes: { sb: { secretStores: [s] } }\n",
    );
    for length in [40, 127, 128, 300] {
        let value = format!("{REAL}{}", "v".repeat(length - REAL.len()));
        let output =
            selftest_with(folder.path(), &["--format", "json"], &[("LONG", value.as_str())]);
        let results = json(&output);
        let tried = results["results"].as_array().unwrap();
        let grpc = tried.iter().find(|tried| tried["place"] == "body application/grpc").unwrap();
        assert_eq!(grpc["result"], "ok", "{grpc}");
        assert_eq!(grpc["arrived"], format!("the value (real…, {length} bytes)"));
        assert_eq!(grpc["echo"], "sealed");
    }
}

#[test]
fn a_message_over_a_websocket_arrives_and_its_echo_comes_back_sealed() {
    let folder = folder(
        "secretStores:\n  s:\n    egressAllowlist: [{ host: ws.example.com, methods: [GET], paths: [/socket] }, { host: post.example.com, methods: [POST] }]\n    secrets: { KEY: { from: { env: SOURCE_OF_NAMED }, locations: [websocket] } }\nsandboxes: { sb: { secretStores: [s] } }\n",
    );
    let output = selftest(folder.path(), &["--format", "json"]);
    let results = json(&output);
    assert!(output.status.success(), "{results:#}");
    let places = |host| places(&results, "KEY", host);
    assert_eq!(places("ws.example.com"), [("websocket".to_owned(), "ok".to_owned())]);
    assert_eq!(places("post.example.com"), [("websocket".to_owned(), "skipped".to_owned())]);
    let tried = &results["results"][0];
    assert_eq!(tried["arrived"], format!("the value (real…, {} bytes)", REAL.len() + 6));
    assert_eq!(tried["echo"], "sealed");
}

#[test]
fn what_signs_is_tried_in_every_form_that_a_client_signs_in() {
    let policy = r#"
secretStores:
  s:
    egressAllowlist: [api.example.com]
    secrets:
      HEX: { from: { env: SOURCE_OF_NAMED }, allowedHosts: [api.example.com], sign: { scheme: hmac, header: x-signature, template: "{timestamp}|{method}|{target}|{body_sha256}", timestampHeader: x-timestamp } }
      BASE64: { from: { env: SOURCE_OF_NAMED }, allowedHosts: [api.example.com], sign: { scheme: hmac, header: x-other, template: "{method}{target}", encoding: base64, format: "v1={signature}" } }
      AWS_ACCESS_KEY_ID: { from: { env: SOURCE_OF_NAMED } }
      AWS_SECRET_ACCESS_KEY: { from: { env: SOURCE_OF_EVERYWHERE }, sign: aws-sigv4 }
      AWS_SESSION_TOKEN: { from: { env: SOURCE_OF_SESSION } }
      SOCKET: { from: { env: SOURCE_OF_NAMED }, locations: [websocket] }
sandboxes: { sb: { secretStores: [s] } }
"#;
    let folder = folder(policy);
    let session = format!("{REAL}-session/+=");
    let sources = [("SOURCE_OF_SESSION", session.as_str())];
    let output = selftest_with(folder.path(), &["--format", "json"], &sources);
    let results = json(&output);
    assert!(output.status.success(), "{results:#}");
    let right = "a signature that is right";
    let expected = [
        ("AWS_ACCESS_KEY_ID", "sign aws-sigv4 header", right),
        ("AWS_SECRET_ACCESS_KEY", "sign aws-sigv4 header", right),
        ("AWS_SECRET_ACCESS_KEY", "sign aws-sigv4 presigned", right),
        ("AWS_SECRET_ACCESS_KEY", "sign aws-sigv4 chunks", right),
        ("AWS_SESSION_TOKEN", "sign aws-sigv4 header", right),
        ("BASE64", "sign x-other", "a signature (44 characters)"),
        ("HEX", "sign x-signature", "a signature (64 characters)"),
        ("SOCKET", "websocket", "the value (real…, 43 bytes)"),
    ];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = results["results"].as_array().unwrap().iter();
    let told = all.map(|it| [&it["secret"], &it["place"], &it["arrived"]].map(text));
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|[secret, ..]| secret.clone());
    let expected =
        expected.map(|(secret, place, arrived)| [secret, place, arrived].map(str::to_owned));
    assert_eq!(told, expected, "{results:#}");
    for tried in results["results"].as_array().unwrap() {
        assert_eq!((&tried["result"], &tried["echo"]), (&"ok".into(), &"sealed".into()), "{tried}");
    }
    let closed = policy.replace(
        "SOURCE_OF_NAMED }, locations",
        "SOURCE_OF_NAMED }, allowedHosts: [closed.example.com], locations",
    );
    std::fs::write(folder.path().join("policies/policy.yaml"), closed).unwrap();
    let output = selftest_with(folder.path(), &["--format", "json"], &sources);
    let results = json(&output);
    assert_eq!(output.status.code(), Some(1), "{results:#}");
    let last = results["results"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["secret"], &last["result"]), (&"SOCKET".into(), &"failed".into()));
}

#[test]
fn a_source_that_fails_is_a_failure_and_the_others_are_tried_all_the_same() {
    let folder = folder(&POLICY.replace("SOURCE_OF_EVERYWHERE", "NOT_SET"));
    let output = selftest(folder.path(), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let failed: Vec<_> = text.lines().filter(|line| line.contains("FAIL")).collect();
    assert_eq!(failed.len(), 1, "{text}");
    assert!(
        failed[0].contains("EVERYWHERE") && failed[0].contains("the variable NOT_SET"),
        "{text}"
    );
    assert!(text.contains("NAMED") && text.contains("echo sealed"), "{text}");
    assert!(text.contains("failed: ") && text.contains("1 failed"), "{text}");
}

#[test]
fn made_up_values_leave_the_sources_alone() {
    let folder = folder(&POLICY.replace("{ file: key.txt }", "{ command: [touch, ran] }"));
    let output = selftest(folder.path(), &["--fake-values", "--format", "json"]);
    let results = json(&output);
    assert!(output.status.success(), "{results:#}");
    assert_eq!(results["fakeValues"], true);
    assert!(!folder.path().join("ran").exists());
}

#[test]
fn a_secret_that_no_allowed_host_takes_is_a_failure_with_the_rule_that_is_missing() {
    let folder = folder(
        "secretStores:\n  s:\n    egressAllowlist: [other.example.com]\n    secrets: { KEY: { from: { env: SOURCE_OF_NAMED }, allowedHosts: [api.example.com] } }\nsandboxes: { sb: { secretStores: [s] } }\n",
    );
    let output = selftest(folder.path(), &["--format", "json"]);
    let results = json(&output);
    assert_eq!(output.status.code(), Some(1), "{results:#}");
    let tried = results["results"].as_array().unwrap();
    assert!(tried[0]["detail"].as_str().unwrap().contains("api.example.com"), "{results:#}");
    assert_eq!(tried.last().unwrap()["result"], "failed");
}

#[test]
fn a_policy_with_errors_or_without_sandboxes_is_not_tried() {
    for policy in [
        "secretStores: { s: { egressAllowlist: [] } }",
        "secretStores: { s: { egressAllowlist: [a.test] } }",
    ] {
        let folder = folder(policy);
        let output = selftest(folder.path(), &["--fake-values"]);
        assert_eq!(output.status.code(), Some(1), "{policy}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{policy}");
    }
}
