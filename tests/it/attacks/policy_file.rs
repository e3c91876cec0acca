//! Policy files that are broken, ambiguous or tampered with: none loads, not even in part, and each says where and why.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tollgate::config::{Config, Overrides};
use tollgate::host::{Destination, Host, Port, Scheme};
use tollgate::policy::{
    Diagnostic, Loaded, OperatorRules, PolicySet, RequestLine, Severity, VerdictName,
    decide_request, explain,
};

use crate::support::{P0, Tollgate, Upstream, eventually, fresh_value};

/// Loads bytes as a file of a folder of their own.
fn load(bytes: &[u8]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, bytes).unwrap();
    PolicySet::load(&[path])
}

/// Nothing is loaded, and an error of this kind says where.
#[track_caller]
fn refused(text: impl AsRef<[u8]>, code: &str) -> Vec<Diagnostic> {
    let loaded = load(text.as_ref());
    let shown = String::from_utf8_lossy(text.as_ref()).into_owned();
    assert!(loaded.set.is_none(), "loaded: {shown}");
    let errors: Vec<_> =
        loaded.diagnostics.into_iter().filter(|found| found.severity == Severity::Error).collect();
    assert!(
        errors.iter().any(|found| found.code == code && found.line > 0 && found.column > 0),
        "{errors:?} for {shown}"
    );
    errors
}

/// Everything is loaded, with exactly these warnings.
#[track_caller]
fn loads_with(text: &str, warnings: &[&str]) -> PolicySet {
    let loaded = load(text.as_bytes());
    let codes: Vec<_> = loaded.diagnostics.iter().map(|found| found.code).collect();
    assert_eq!(codes, warnings, "{:?}", loaded.diagnostics);
    loaded.set.unwrap()
}

fn allow(list: &str) -> String {
    format!("secretStores: {{ s: {{ egressAllowlist: {list} }} }}\n")
}

fn secret(fields: &str) -> String {
    format!(
        "secretStores: {{ s: {{ egressAllowlist: [api.allowed.test], secrets: {{ K: {{ {fields} }} }} }} }}\n"
    )
}

#[test]
fn POL_001_unknown_fields_and_typos() {
    refused("alow: [api.allowed.test]\n", "unknown-field");
    refused("secretStores: { s: { alow: [api.allowed.test] } }\n", "unknown-field");
    refused(allow("[{ hots: x }]"), "unknown-field");
    refused(secret("id: K, host: [a.test]"), "unknown-field");
    refused(secret("from: { env: A, trim: 'true' }"), "unknown-field");
}

#[test]
fn POL_002_duplicate_keys_in_yaml_and_json() {
    refused(
        "secretStores: { s: { egressAllowlist: [a.test] } }\nsecretStores: { s: { egressAllowlist: ['*'] } }\n",
        "duplicate-key",
    );
    refused(
        "{\"secretStores\":{\"s\":{\"egressAllowlist\":[\"a.test\"],\"egressAllowlist\":[\"*\"]}}}",
        "duplicate-key",
    );
    refused(
        "{\"secretStores\":{\"s\":{\"egressAllowlist\":[\"a.test\"],\"egress\\u0041llowlist\":[\"*\"]}}}",
        "duplicate-key",
    );
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.json"] {
        std::fs::write(
            folder.path().join(name),
            "{\"secretStores\":{\"s\":{\"egressAllowlist\":[\"a.test\"]}}}",
        )
        .unwrap();
    }
    let loaded = PolicySet::load(&[folder.path().to_path_buf()]);
    assert!(loaded.set.is_none() && loaded.diagnostics[0].code == "defined-twice");
}

#[test]
fn POL_004_bombs_and_deep_nesting() {
    let bomb = "a: &a [x,x]\n".to_owned()
        + &(1..30)
            .map(|at| {
                format!(
                    "a{at}: &a{at} [*a{p},*a{p}]\n",
                    p = if at == 1 { String::new() } else { (at - 1).to_string() }
                )
            })
            .collect::<String>();
    let started = std::time::SystemTime::now();
    refused(bomb, "anchor");
    refused("[".repeat(100_000), "syntax");
    refused("{a: ".repeat(100_000), "syntax");
    refused("- ".repeat(100_000), "syntax");
    refused(vec![b' '; (1 << 20) + 1], "too-large");
    assert!(started.elapsed().unwrap().as_secs() < 10);
}

#[test]
fn POL_005_implicit_typing() {
    let errors = refused(allow("[no, 1e3, 0x7f000001, 12:30:45, null, ~]"), "not-a-string");
    assert_eq!(errors.len(), 6);
    refused(allow("['0x7f000001']"), "bad-host");
    refused(allow("['12:30:45']"), "bad-host");
    refused("sandboxes: { no: { secretStores: [s] } }\n", "not-a-string");
}

#[test]
fn POL_006_files_that_are_empty_or_not_text() {
    for text in ["", " \n\t\n", "# c\n", "---\n", "\u{feff}", "{}", "null\n"] {
        let loaded = load(text.as_bytes());
        assert!(loaded.set.is_none(), "{text:?}");
        assert!(!loaded.diagnostics.is_empty());
    }
    loads_with(&format!("\u{feff}{}", allow("[a.test]")), &[]);
    let utf16: Vec<u8> = allow("[a.test]").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(load(&utf16).set.is_none());
    refused([&[0xff, 0xfe], utf16.as_slice()].concat(), "not-utf-8");
    refused(allow("[\"a\\0b\"]"), "nul");
    assert!(load(b"secretStores: { s: { egressAllowlist: [a\0.test] } }").set.is_none());
}

#[test]
fn POL_009_a_wildcard_over_a_public_suffix_is_warned_about() {
    for suffix in ["com", "co.uk", "github.io", "amazonaws.com"] {
        loads_with(&allow(&format!("['*.{suffix}']")), &["public-suffix"]);
    }
}

#[test]
fn POL_010_wildcards_elsewhere_than_in_front() {
    for pattern in
        ["api.*.test", "a*.test", "*a.test", "*.*.test", "foo.*", "**", "*.", "*.127.0.0.1"]
    {
        refused(allow(&format!("['{pattern}']")), "bad-host");
    }
}

#[test]
fn POL_012_u_labels_become_a_labels() {
    let set = loads_with(&allow("[bücher.test, faß.test]"), &[]);
    let patterns: Vec<_> = set
        .stores()
        .next()
        .unwrap()
        .allow
        .iter()
        .flatten()
        .map(|rule| rule.pattern.to_string())
        .collect();
    assert_eq!(patterns, ["xn--bcher-kva.test", "xn--fa-hia.test"]);
    loads_with(&allow("['\u{430}pple.test']"), &["mixed-scripts"]);
    loads_with(&allow("['xn--pple-43d.test']"), &["mixed-scripts"]);
}

#[test]
fn POL_013_duplicates_and_overlaps_unite_whatever_their_order() {
    loads_with(&allow("[A.test, a.test]"), &["duplicate-item"]);
    let one = "{ host: '*.test2', methods: [GET] }, x.test2";
    let other = "x.test2, { host: '*.test2', methods: [GET] }";
    for list in [one, other] {
        let set = loads_with(&allow(&format!("[{list}]")), &[]);
        let request = "POST https://x.test2/".parse().unwrap();
        let policy = set.effective(&["s".parse().unwrap()], &OperatorRules::default()).unwrap();
        assert_eq!(explain(&Arc::new(policy), &request).verdict, VerdictName::Allow);
    }
}

#[test]
fn POL_015_secrets_without_or_with_wide_hosts() {
    refused(secret("from: { env: A }, allowedHosts: []"), "empty-list");
    refused("secretStores: { s: { secrets: { K: { from: { env: A } } } } }\n", "unbound-secret");
    loads_with(&secret("from: { env: A }, allowedHosts: ['*']"), &["wildcard-grant"]);
    loads_with(
        &secret("from: { env: A }, allowedHosts: ['*.com']"),
        &["dead-grant", "public-suffix", "wildcard-grant"],
    );
    loads_with(&secret("from: { env: A }, allowedHosts: ['203.0.113.10']"), &["dead-grant"]);
    loads_with(&secret("from: { env: A }, allowedHosts: ['*.allowed.test']"), &["wildcard-grant"]);
}

#[test]
fn POL_016_a_grant_opens_no_network() {
    let set =
        loads_with(&secret("from: { env: A }, allowedHosts: [nowhere.test]"), &["dead-grant"]);
    let policy = set.effective(&["s".parse().unwrap()], &OperatorRules::default()).unwrap();
    let request = "GET https://nowhere.test/".parse().unwrap();
    assert_eq!(explain(&Arc::new(policy), &request).verdict, VerdictName::Deny);
}

#[test]
fn POL_017_secrets_that_are_written_twice() {
    refused(
        "secretStores: { s: { egressAllowlist: [a.test], secrets: { K: { from: { env: A } }, K: { from: { env: B } } } } }\n",
        "duplicate-key",
    );
    loads_with(
        "secretStores: { s: { egressAllowlist: [a.test], secrets: { K: { from: { env: A } }, k: { from: { env: B } } } } }\n",
        &["names-differ-in-case"],
    );
    loads_with(
        "secretStores: { s: { egressAllowlist: [a.test], secrets: { A: { from: { value: correct-horse } }, B: { from: { value: correct-horse } } } } }\n",
        &["literal-value", "literal-value", "same-value"],
    );
}

#[test]
fn POL_018_sources_that_name_nothing_and_values_that_fit_nowhere() {
    for from in [
        "{ env: '' }",
        "{ env: }",
        "{ file: '' }",
        "{ command: [] }",
        "{ command: [''] }",
        "{ value: '' }",
        "{ value: \"a\\0bcdefghijkl\" }",
        "{ value: \"two\\nlines of text\" }",
    ] {
        assert!(load(secret(&format!("from: {from}")).as_bytes()).set.is_none(), "{from}");
    }
    loads_with(&secret("from: { value: four }"), &["literal-value", "short-value"]);
}

#[tokio::test]
async fn POL_018_sources_that_give_nothing_fit_answer_503_and_never_the_bare_token() {
    let own = tempfile::tempdir().unwrap();
    let upstream = Upstream::https("api.allowed.test").h1_only().await;
    let policy = |from: &str| {
        format!(
            "secretStores: {{ s: {{ egressAllowlist: [api.allowed.test], secrets: {{ K: {{ from: {from}, allowedHosts: [api.allowed.test] }} }} }} }}\nsandboxes: {{ sb-a: {{ secretStores: [s] }} }}\n"
        )
    };
    let path = own.path().join("key");
    let file = format!("{{ file: {} }}", path.display());
    let value = fresh_value("file");
    let tollgate =
        Tollgate::with(&policy("{ env: TOLLGATE_NOBODY_SETS_THIS }"), &[&upstream]).await;
    tollgate.watch(&value, &["api.allowed.test"]);
    let cases = [
        (None, None),
        (Some(String::new()), None),
        (Some("\n".to_owned()), None),
        (Some(format!("{value}\0")), None),
        (Some(format!("{value}\nanother line of it\n")), None),
        // Exactly one line end is removed.
        (Some(format!("{value}\n\n")), None),
        (Some(format!("{value}\n")), Some(value.clone())),
        (Some(value.clone()), Some(value.clone())),
    ];
    for (nth, (text, opened)) in cases.iter().enumerate() {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            // Another file, so that the source is a new one.
            let next = own.path().join(format!("key-{nth}"));
            std::fs::copy(&path, &next).unwrap();
            tollgate.reload(&policy(&file.replace("/key }", &format!("/key-{nth} }}")))).unwrap();
        }
        let sandbox = tollgate.sandbox("sb-a");
        let answer =
            sandbox.get_with("https://api.allowed.test/", "x-key", sandbox.token("K")).await;
        let expected = if opened.is_some() { 200 } else { 503 };
        assert_eq!(answer.status, expected, "{text:?}: {answer:?}");
        let seen = upstream.requests().pop().and_then(|request| request.header("x-key"));
        assert_eq!(seen.as_ref(), opened.as_ref(), "{text:?}");
    }
    tollgate.finish().await;
}

#[test]
fn POL_019_injection_into_the_wrong_place() {
    let inject = |header: &str, format: &str| {
        secret(&format!(
            "from: {{ env: A }}, allowedHosts: [api.allowed.test], inject: {{ header: {header}, format: {format} }}"
        ))
    };
    for header in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "\"X\\r\\nY\"",
        "':authority'",
        "Upgrade",
        "TE",
        "Trailer",
        "Proxy-Authorization",
        "Keep-Alive",
        "''",
    ] {
        refused(inject(header, "'{value}'"), "bad-header");
    }
    for format in
        ["Bearer", "'{secret}'", "'{value}{value}'", "\"{value}\\r\\nX: y\"", "'{value} {x}'"]
    {
        refused(inject("authorization", format), "bad-format");
    }
}

#[test]
fn POL_020_schemes_and_ports_of_a_grant() {
    refused(secret("from: { env: A }, allowedHosts: ['http://api.allowed.test']"), "bad-host");
    refused(secret("from: { env: A }, allowedHosts: ['api.allowed.test:80']"), "plain-http");
    for port in ["0", "65536", "-1", "'", "+1", "0443", "4 43", ""] {
        refused(
            secret(&format!("from: {{ env: A }}, allowedHosts: [\"api.allowed.test:{port}\"]")),
            "bad-host",
        );
    }
}

#[test]
fn POL_021_no_option_voids_the_guarantees() {
    for field in
        ["insecure_skip_verify: 'true'", "mitm: 'off'", "upstream_ca: /x", "min_version: tls1.0"]
    {
        refused(
            format!(
                "secretStores: {{ s: {{ egressAllowlist: [{{ host: a.test, {field} }}] }} }}\n"
            ),
            "unknown-field",
        );
        refused(
            format!("secretStores: {{ s: {{ egressAllowlist: [a.test], {field} }} }}\n"),
            "unknown-field",
        );
    }
    refused(allow("[{ host: a.test, tls: passthrough }]"), "not-carried-yet");
}

#[test]
fn POL_022_durations() {
    for duration in [
        "-1",
        "0",
        "1e99",
        "'10'",
        "'10x'",
        "18446744073709551616",
        "18446744073709551616s",
        "0s",
        "10 s",
        "'-5s'",
        "1.5s",
        "[]",
        "999999d",
    ] {
        refused(secret(&format!("from: {{ command: [x], refresh: {duration} }}")), "bad-duration");
        refused(secret(&format!("from: {{ command: [x], timeout: {duration} }}")), "bad-duration");
    }
}

#[test]
fn POL_023_listeners_reach_beyond_loopback_only_where_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.yaml");
    let config = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), &Overrides::default())
    };
    for refused in [
        "listen: { explicit: ['0.0.0.0:3128'] }",
        "listen: { explicit: ['[::]:53'] }",
        "listen: { explicit: [':3128'] }",
        "listen: { explicit: ['3128'] }",
        "listen: { explicit: ['127.0.0.1:3128', '127.0.0.1:3128'] }",
        "listen: { nonLocal: true, explicit: ['0.0.0.0:3128', '127.0.0.1:3128'] }",
        // The operator's own listeners stay on loopback whatever else is said.
        "listen: { nonLocal: true, metrics: '0.0.0.0:9464' }",
        "{ listen: { nonLocal: true, api: '[::]:3130' }, api: { keys: [{ env: A }] } }",
    ] {
        assert!(config(refused).is_err(), "{refused}");
    }
    let said = "listen: { nonLocal: true, explicit: ['0.0.0.0:3128'] }";
    assert_eq!(config(said).unwrap().listen.explicit[0].address, "0.0.0.0:3128".parse().unwrap());
}

#[test]
fn POL_024_files_that_others_may_write_or_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, allow("[a.test]")).unwrap();
    let code = |path: &Path| {
        let loaded = PolicySet::load(&[path.to_path_buf()]);
        assert!(loaded.set.is_none());
        loaded.diagnostics[0].code
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(code(&path), "writable-by-others");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(PolicySet::load(std::slice::from_ref(&path)).set.is_some());
    // Only root may give a file away; without root this part has nothing to show.
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
        assert_eq!(code(&path), "foreign-owner");
    }
    assert_eq!(code(Path::new("/dev/zero")), "not-a-file");
    assert_eq!(code(&folder.path().join("gone.yaml")), "unreadable");
}

#[test]
fn POL_025_one_bad_file_of_a_folder_leaves_nothing_loaded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), allow("[a.test]")).unwrap();
    let paths: [PathBuf; 1] = [folder.path().to_path_buf()];
    assert!(PolicySet::load(&paths).set.is_some());
    std::fs::write(folder.path().join("b.yml"), "garbage: [").unwrap();
    assert!(PolicySet::load(&paths).set.is_none());
    std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
    std::fs::remove_file(folder.path().join("b.yml")).unwrap();
    assert!(PolicySet::load(&paths).set.is_none(), "an empty folder is no policy");
    assert!(PolicySet::load(&[]).set.is_none());
}

#[tokio::test]
async fn POL_025_a_bad_reload_keeps_the_old_policy_and_says_so() {
    let upstream = Upstream::https("api.allowed.test").also("evil.test").await;
    let mut tollgate = Tollgate::describe(P0, &[&upstream]).sidecar("sb-a").start().await;
    tollgate.expect_error("the policy files were refused");
    let before = std::fs::read_to_string(tollgate.policy_file()).unwrap();
    let sandbox = tollgate.sandbox("sb-a");
    let wider =
        before.replace("open.allowed.test:443", "evil.test").replace("sandboxes:", "sandboxen:");
    let others_may_write = |path: &Path| {
        std::fs::write(path, &before).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    };
    let path = tollgate.policy_file();
    for broken in ["garbage", "half", "gone", "empty", "writable"] {
        match broken {
            "garbage" => std::fs::write(&path, "garbage: [").unwrap(),
            "half" => std::fs::write(&path, &wider).unwrap(),
            "gone" => std::fs::remove_file(&path).unwrap(),
            "empty" => std::fs::write(&path, "").unwrap(),
            _ => others_may_write(&path),
        }
        assert!(tollgate.server().reload().is_err(), "{broken}");
        assert!(tollgate.server().health().refused_reload.load().is_some(), "{broken}");
        let answer = sandbox.get("https://api.allowed.test/").await;
        assert_eq!(answer.status, 200, "{broken}: {answer:?}");
        let answer = sandbox.get("https://evil.test/").await;
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"), "{broken}");
    }
    std::fs::write(&path, &before).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    tollgate.server().reload().unwrap();
    assert!(tollgate.server().health().refused_reload.load().is_none());
    let audit = tollgate.folder().join("audit.jsonl");
    eventually("five refused reloads in the audit", || {
        let text = std::fs::read_to_string(&audit).unwrap();
        let refused = |line: &&str| {
            line.contains("\"event\":\"policy\"") && line.contains("\"verdict\":\"deny\"")
        };
        (text.lines().filter(refused).count() == 5).then_some(())
    })
    .await;
    tollgate.finish().await;
}

#[test]
fn POL_029_explain_is_the_decision() {
    let text = "secretStores: { s: { egressAllowlist: [api.allowed.test, '*.wild.test', { host: m.test, methods: [GET], paths: ['/a/**'] }], egressDenylist: [secret.wild.test] } }\n";
    let set = loads_with(text, &[]);
    let policy =
        Arc::new(set.effective(&["s".parse().unwrap()], &OperatorRules::default()).unwrap());
    for line in [
        "GET https://API.Allowed.TEST/",
        "GET https://api.allowed.test./",
        "GET https://secret.wild.test./",
        "GET https://api.allowed.test.evil.test/",
        "GET https://apixallowed.test/",
        "GET https://wild.test/",
        "GET https://a.b.wild.test/",
        "GET https://203.0.113.10/",
        "GET https://m.test/a/b",
        "POST https://m.test/a/b",
        "GET https://m.test/a/../b",
        "TRACE https://api.allowed.test/",
        "GET https://api.allowed.test:8443/",
    ] {
        let request: RequestLine = line.parse().unwrap();
        let decided = decide_request(
            &policy,
            &request.destination,
            request.scheme,
            &request.method,
            &request.path,
        )
        .permit();
        let explained = explain(&policy, &request);
        assert_eq!(explained.verdict == VerdictName::Allow, decided.is_ok(), "{line}");
        assert_eq!(explained.reason, decided.as_ref().err().map(|denial| denial.reason), "{line}");
        assert_eq!(explained.policy_digest, policy.digest().to_string());
    }
    let literal = Destination { host: Host::parse("203.0.113.10").unwrap(), port: Port::HTTPS };
    assert!(
        decide_request(&policy, &literal, Scheme::Https, &http::Method::GET, "/").permit().is_err()
    );
}
