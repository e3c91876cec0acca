//! One mistake, one finding, at its place and with a hint.

use super::*;

/// A store `s` whose allowlist is `list`.
fn with_list(list: &str) -> String {
    format!("secretStores:\n  s:\n    egressAllowlist: {list}\n")
}

/// A store `s` that opens `a.test`, with a secret `K` of these fields.
fn with_secret(fields: &str) -> String {
    format!(
        "secretStores:\n  s:\n    egressAllowlist: [a.test]\n    secrets:\n      K: {{ {fields} }}\n"
    )
}

/// The text that a finding points at.
fn pointed_at(found: &Diagnostic, text: &str) -> String {
    let line = text.lines().nth(found.line - 1).unwrap_or_default();
    line.chars().skip(found.column - 1).take(found.end_column - found.column).collect()
}

/// The only error of a text: its code and what it points at, and its hint.
fn only_error(text: &str) -> (String, String) {
    let loaded = PolicySet::read(Path::new("p.yaml"), text);
    let mut errors = loaded.diagnostics.into_iter().filter(|d| d.severity == Severity::Error);
    let first = errors.next().unwrap_or_else(|| panic!("no error in\n{text}"));
    assert_eq!(errors.next().map(|d| d.to_string()), None, "in\n{text}");
    (format!("{} {}", first.code, pointed_at(&first, text)), first.hint.unwrap_or_default())
}

#[test]
fn each_mistake_is_an_error_at_its_place_with_a_hint() {
    for (text, expected, hint) in [
        ("", "empty-file ", "secretStores"),
        ("# only a comment\n", "empty-file #", "secretStores"),
        ("{}", "empty-file {}", "secretStores"),
        ("[]", "wrong-kind []", "field: value"),
        ("sandboxes: [", "syntax [", "brackets"),
        ("secretStores:\n  a: {}\n---\nsecretStores: {}\n", "several-documents ---", "---"),
        ("secretStores: &x {}\n", "anchor {", "store of its own"),
        ("secretStores: !!map {}\n", "tag {", "quotes"),
        (
            "secretstores: {}\nsandboxes: {}\n",
            "unknown-field secretstores",
            "did you mean `secretStores`",
        ),
        (
            "sandboxes:\n  sb: { source: [10.0.0.1], secretStores: [s] }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "unknown-field source",
            "did you mean `sources`",
        ),
        ("secretStores: { a: {} }\nsecretStores: {}\n", "duplicate-key secretStores", "keep one"),
        ("secretStores: { a: {}, a: {} }\n", "duplicate-key a", "keep one"),
        ("secretStores:\n  a: { <<: {} }\n", "merge-key <<", "write the fields out"),
        ("secretStores: { 'a b': {} }\n", "bad-name 'a b'", "letters"),
        ("secretStores: { 12: {} }\n", "not-a-string 12", "quotes"),
        ("secretStores: { a: }\n", "wrong-kind :", "leave it out"),
        ("sandboxes: { sb: { secretStores: [nobody] } }\n", "unknown-store nobody", "define it"),
        (
            "sandboxes: { sb: { secretStores: [gti] } }\nsecretStores: { git: { egressAllowlist: [a.test] } }",
            "unknown-store gti",
            "did you mean `git`",
        ),
        ("sandboxes: { sb: { secretStores: [] } }\n", "empty-list []", "base first"),
        (
            "sandboxes: { sb: { secretStores: [s], sources: [10.0.0.5/24] } }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "bad-source 10.0.0.5/24",
            "10.0.0.0/24",
        ),
        (
            "sandboxes: { sb: { secretStores: [s], sources: [0.0.0.0/0] } }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "bad-source 0.0.0.0/0",
            "every client",
        ),
        (
            "sandboxes:\n  a: { secretStores: [s], sources: [10.0.0.0/24, 10.0.0.9] }\n  b: { secretStores: [s], sources: [10.0.0.9/32] }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "same-source 10.0.0.9/32",
            "its own",
        ),
    ] {
        let (found, found_hint) = only_error(text);
        assert_eq!(found, expected, "{text}");
        assert!(found_hint.contains(hint), "{text}: {found_hint}");
    }
}

#[test]
fn each_mistake_in_an_allowlist_is_an_error() {
    for (list, expected, hint) in [
        ("[]", "empty-list []", "does not mean"),
        ("a.test", "wrong-kind a.test", "brackets"),
        ("[*.example.com]", "alias *.example.com", "quotes"),
        ("[*]", "alias *", "quotes"),
        ("\n      - *.example.com\n", "alias *.example.com", "quotes"),
        ("\n      - *\n", "alias *", "quotes"),
        ("[a..b]", "bad-host a..b", "empty label"),
        ("[http://a.test]", "bad-host http://a.test", "not a URL"),
        ("['api.*.test']", "bad-host 'api.*.test'", "whole first label"),
        ("['a*.test']", "bad-host 'a*.test'", "whole first label"),
        ("['*a.test']", "bad-host '*a.test'", "whole first label"),
        ("['*.*.test']", "bad-host '*.*.test'", "whole first label"),
        ("['foo.*']", "bad-host 'foo.*'", "whole first label"),
        ("['a.test:0']", "bad-host 'a.test:0'", "65535"),
        ("['a.test:65536']", "bad-host 'a.test:65536'", "65535"),
        ("['127.1']", "bad-host '127.1'", "canonical"),
        ("[\"a\\0b\"]", "nul \"a\\0b\"", "remove"),
        ("[{ hots: a.test, host: a.test }]", "unknown-field hots", "`host`"),
        ("[{ methods: [GET] }]", "missing-field { methods: [GET] }", "host:"),
        ("[{ host: a.test, methods: [get] }]", "bad-method get", "GET"),
        ("[{ host: a.test, methods: [TRACE] }]", "bad-method TRACE", "never"),
        ("[{ host: a.test, methods: [] }]", "empty-list []", "leave `methods` out"),
        ("[{ host: a.test, paths: [simple] }]", "bad-path simple", "starts with"),
        ("[{ host: a.test, paths: ['/../x'] }]", "bad-path '/../x'", "decoded"),
        ("[{ host: a.test, schemes: [ftp] }]", "bad-scheme ftp", "https"),
        ("[{ host: a.test, tls: passthrough }]", "not-carried-yet tls", "remove"),
        ("[{ host: a.test, scrub: false }]", "bad-scrub false", "leave the field out"),
    ] {
        let text = with_list(list);
        // A NUL is refused twice: as a character of the file, and as one of a host.
        let (found, found_hint) = if list.contains("\\0") {
            let first = PolicySet::read(Path::new("p.yaml"), &text).diagnostics.swap_remove(1);
            (format!("{} {}", first.code, pointed_at(&first, &text)), first.hint.unwrap())
        } else {
            only_error(&text)
        };
        assert_eq!(found, expected, "{list}");
        assert!(found_hint.contains(hint), "{list}: {found_hint}");
    }
}

#[test]
fn plain_scalars_that_some_reader_takes_for_something_else_are_refused() {
    let typed = [
        "no",
        "1e3",
        "0x7f000001",
        "12:30:45",
        "null",
        "~",
        "Off",
        "1_000",
        "0o17",
        "0b1",
        ".inf",
        "2026-11-24",
        "1.5",
        "-1",
        "+1",
    ];
    for scalar in typed {
        assert_eq!(
            only_error(&with_list(&format!("[{scalar}]"))).0,
            format!("not-a-string {scalar}"),
            "{scalar}"
        );
    }
    assert_eq!(findings(&with_list("[10.0.0.1, 'no', 'on.test', 1e3.test]")), [""; 0]);
    let all = findings(&with_list("[no, 1e3, 0x7f000001, 12:30:45, null, ~]"));
    assert_eq!(all.len(), 6, "{all:?}");
}

#[test]
fn each_mistake_in_a_secret_is_an_error() {
    for (fields, expected, hint) in [
        ("allowedHosts: [a.test]", "missing-field { allowedHosts: [a.test] }", "env"),
        ("from: {}", "bad-source-of-secret {}", "env"),
        ("from: { env: A, file: B }", "bad-source-of-secret { env: A, file: B }", "env"),
        ("from: { env: '' }", "empty-string ''", "another source"),
        ("from: { env: 1 }", "not-a-string 1", "quotes"),
        ("from: { enw: A }", "unknown-field enw", "`env`"),
        ("from: { command: 'op read' }", "wrong-kind 'op read'", "op, read"),
        ("from: { command: [] }", "empty-list []", "program"),
        ("from: { env: A, refresh: 10m }", "bad-source-of-secret refresh", "remove"),
        ("from: { command: [a], refresh: 10 }", "bad-duration 10", "unit"),
        ("from: { command: [a], refresh: 0s }", "bad-duration 0s", "unit"),
        ("from: { command: [a], refresh: -1s }", "bad-duration -1s", "unit"),
        ("from: { command: [a], refresh: 10x }", "bad-duration 10x", "unit"),
        (
            "from: { command: [a], timeout: 18446744073709551616s }",
            "bad-duration 18446744073709551616s",
            "unit",
        ),
        (
            "from: { oauth2ClientCredentials: { tokenUrl: 'http://a.test/t', clientId: a, clientSecret: { env: A } } }",
            "bad-url 'http://a.test/t'",
            "https://",
        ),
        (
            "from: { oauth2ClientCredentials: { tokenUrl: 'https://u@a.test/t', clientId: a, clientSecret: { env: A } } }",
            "bad-url 'https://u@a.test/t'",
            "user",
        ),
        (
            "from: { oauth2ClientCredentials: { tokenUrl: 'https://a.test/t', clientId: a } }",
            "missing-field { tokenUrl: 'https://a.test/t', clientId: a }",
            "clientSecret: { env: NAME }",
        ),
        (
            "from: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a, refreshTokn: { env: A } } }",
            "unknown-field refreshTokn",
            "did you mean `refreshToken`",
        ),
        (
            "from: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a, refreshToken: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a, refreshToken: { env: A } } } } }",
            "bad-source-of-secret oauth2RefreshToken",
            "{ env: NAME }",
        ),
        (
            "from: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a, refreshToken: { env: A }, clientAuth: header } }",
            "bad-client-auth header",
            "basic",
        ),
        (
            "from: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a, refreshToken: { env: A }, scopes: ['read write'] } }",
            "bad-scope 'read write'",
            "[read, write]",
        ),
        (
            "from: { oauth2RefreshToken: { tokenUrl: 'https://a.test/t', clientId: a, refreshToken: { env: A }, timeout: 2m } }",
            "bad-duration 2m",
            "30s",
        ),
        (
            "from: { oauthClientCredentials: {} }",
            "unknown-field oauthClientCredentials",
            "oauth2ClientCredentials",
        ),
        ("from: { value: '' }", "bad-value value", "quotes"),
        ("from: { value: \"a long enough\\nvalue\" }", "bad-value value", "|-"),
        ("from: { env: A }, allowedHosts: []", "empty-list []", "own store"),
        (
            "from: { env: A }, allowedHosts: ['http://a.test']",
            "bad-host 'http://a.test'",
            "not a URL",
        ),
        ("from: { env: A }, allowedHosts: ['a.test:80']", "plain-http 'a.test:80'", "TLS"),
        (
            "from: { env: A }, locations: [query], headers: [x-key]",
            "no-header-location headers",
            "`header`",
        ),
        ("from: { env: A }, locations: [cookie]", "bad-location cookie", "`query`"),
        (
            "from: { env: A }, placeholder: 'ghp_{sealed:10}'",
            "bad-placeholder 'ghp_{sealed:10}'",
            "{sealed:11}",
        ),
        ("from: { env: A }, headers: []", "empty-list []", "leave the field out"),
        ("from: { env: A }, headers: ['a b']", "bad-header 'a b'", "x-api-key"),
        ("from: { env: A }, headers: [Host]", "bad-header Host", "frames"),
        (
            "from: { env: A }, allowed_hosts: [a.test]",
            "unknown-field allowed_hosts",
            "`allowedHosts`",
        ),
        (
            "from: { value: 'too short' }, allowedHosts: ['*.a.test']",
            "short-value value",
            "without",
        ),
        (
            "from: { env: A }, inject: { header: x-key, format: '{value}' }",
            "inject-needs-exact-hosts inject",
            "without",
        ),
        (
            "from: { env: A }, allowedHosts: ['*.a.test'], inject: { header: x-key, format: '{value}' }",
            "inject-needs-exact-hosts inject",
            "without",
        ),
    ] {
        let (found, found_hint) = only_error(&with_secret(fields));
        assert_eq!(found, expected, "{fields}");
        assert!(found_hint.contains(hint), "{fields}: {found_hint}");
    }
}

#[test]
fn each_mistake_in_inject_is_an_error() {
    let with = |inject: &str| {
        with_secret(&format!("from: {{ env: A }}, allowedHosts: [a.test], inject: {{ {inject} }}"))
    };
    for header in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "\"X\\r\\nY\"",
        "':authority'",
        "Proxy-Authorization",
        "TE",
    ] {
        let text = with(&format!("header: {header}, format: '{{value}}'"));
        assert_eq!(only_error(&text).0, format!("bad-header {header}"), "{header}");
    }
    for format in [
        "'Bearer'",
        "'{value} {value}'",
        "'{secret}{value}'",
        "' {value}'",
        "'{value} '",
        "\"a\\r\\n{value}\"",
        "'é{value}'",
    ] {
        let text = with(&format!("header: x-key, format: {format}"));
        assert_eq!(only_error(&text).0, format!("bad-format {format}"), "{format}");
    }
    assert_eq!(only_error(&with("header: x-key")).0, "missing-field { header: x-key }");
    assert_eq!(
        findings(&with(
            "header: Authorization, format: 'Bearer {value}', methods: [GET], paths: ['/v1/**']"
        )),
        [""; 0]
    );
}

#[test]
fn an_unbound_secret_is_an_error_unless_it_says_every_host() {
    let text = |hosts: &str| {
        format!("secretStores: {{ s: {{ secrets: {{ K: {{ from: {{ env: A }}{hosts} }} }} }} }}\n")
    };
    assert_eq!(only_error(&text("")).0, "unbound-secret K");
    assert_eq!(findings(&text(", allowedHosts: ['*']")), ["warning wildcard-grant 1:71"]);
}

#[test]
fn each_mistake_in_sign_is_an_error() {
    let store = |sign: &str| {
        format!(
            "secretStores: {{ s: {{ egressAllowlist: [a.test], secrets: {{ AWS_ACCESS_KEY_ID: {{ from: {{ env: I }} }}, AWS_SESSION_TOKEN: {{ from: {{ env: T }} }}, KEY: {{ from: {{ env: K }}, {sign} }} }} }} }}"
        )
    };
    for fine in [
        "sign: aws-sigv4",
        "sign: { scheme: aws-sigv4, accessKeyId: AWS_ACCESS_KEY_ID, sessionToken: AWS_SESSION_TOKEN }",
        "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: '{method}{body}', encoding: base64 }",
    ] {
        assert_eq!(PolicySet::read(Path::new("p.yaml"), &store(fine)).diagnostics, [], "{fine}");
    }
    for (sign, expected, hint) in [
        ("sign: aws-sigv4a", "bad-sign aws-sigv4a", "one region"),
        ("sign: aws_sigv4", "bad-sign aws_sigv4", "`aws-sigv4`"),
        ("sign: hmac", "bad-sign hmac", "template"),
        (
            "sign: { accessKeyId: AWS_ACCESS_KEY_ID }",
            "missing-field { accessKeyId: AWS_ACCESS_KEY_ID }",
            "sign: aws-sigv4",
        ),
        ("sign: { scheme: aws-sigv4 }", "missing-field { scheme: aws-sigv4 }", "accessKeyId"),
        (
            "sign: { scheme: aws-sigv4, accessKeyId: AWS_ACCES_KEY_ID }",
            "unknown-secret AWS_ACCES_KEY_ID",
            "`AWS_ACCESS_KEY_ID`",
        ),
        ("sign: { scheme: aws-sigv4, accessKeyId: KEY }", "bad-sign KEY", "access key id"),
        ("sign: { scheme: aws-sigv4, accessKeyId: a/b }", "bad-name a/b", "name a secret"),
        (
            "sign: { scheme: aws-sigv4, accessKeyId: AWS_SESSION_TOKEN, sessionToken: AWS_SESSION_TOKEN }",
            "bad-sign sign",
            "two secrets",
        ),
        (
            "sign: { scheme: aws-sigv4, accessKeyID: AWS_ACCESS_KEY_ID }",
            "unknown-field accessKeyID",
            "`accessKeyId`",
        ),
        ("locations: [header], sign: aws-sigv4", "signs-and-travels locations", "remove"),
        (
            "allowedHosts: [a.test], inject: { header: x-k, format: '{value}' }, sign: aws-sigv4",
            "signs-and-travels inject",
            "remove",
        ),
        (
            "sign: { scheme: hmac, header: x-s, template: '{method}' }",
            "inject-needs-exact-hosts sign",
            "without",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: '{host}' }",
            "bad-sign '{host}'",
            "{body_sha256}",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: text }",
            "bad-sign text",
            "{body_sha256}",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: '{timestamp}' }",
            "bad-sign template",
            "timestampHeader",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: '{body}', timestampHeader: x-t }",
            "bad-sign timestampHeader",
            "{timestamp}",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: '{body}', encoding: base32 }",
            "bad-sign base32",
            "`base64`",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: x-s, template: '{body}', format: 'v1' }",
            "bad-format 'v1'",
            "{signature}",
        ),
        (
            "allowedHosts: [a.test], sign: { scheme: hmac, header: Host, template: '{body}' }",
            "bad-header Host",
            "frames",
        ),
    ] {
        let (found, found_hint) = only_error(&store(sign));
        assert_eq!(found, expected, "{sign}");
        assert!(found_hint.contains(hint), "{sign}: {found_hint}");
    }
}

#[test]
fn two_secrets_that_inject_one_header_on_one_host_are_an_error() {
    let secret = |name: &str, host: &str| {
        format!(
            "{name}: {{ from: {{ env: A }}, allowedHosts: ['{host}'], inject: {{ header: X-Key, format: '{{value}}' }} }}"
        )
    };
    let text = |a: &str, b: &str, layers: &str| {
        format!(
            "secretStores:\n  s1: {{ egressAllowlist: [a.test], secrets: {{ {} }} }}\n  s2: {{ egressAllowlist: ['a.test:*'], secrets: {{ {} }} }}\nsandboxes: {{ sb: {{ secretStores: [{layers}] }} }}\n",
            secret("A", a),
            secret("B", b)
        )
    };
    assert_eq!(only_error(&text("a.test", "a.test:443", "s1, s2")).0, "injected-twice sb");
    assert_eq!(findings(&text("a.test", "a.test:443", "s1")), [""; 0]);
    assert_eq!(findings(&text("a.test", "a.test:8443", "s1, s2")), [""; 0]);
    let both = set(&text("a.test", "a.test:443", "s1"));
    let layers = ["s1".parse().unwrap(), "s2".parse().unwrap()];
    assert!(matches!(
        both.effective(&layers, &OperatorRules::default()),
        Err(LayerError::InjectedTwice(_))
    ));
}

#[test]
fn every_independent_mistake_is_reported_in_one_go() {
    let text = "\
secretStores:
  s:
    egressAllowlist: [a..b, no, 'x.*']
    egresDenylist: [b.test]
    secrets:
      K: { from: { enw: A }, allowedHost: [a.test] }
      'bad name': { from: { env: A }, allowedHosts: [a.test] }
sandboxes:
  sb: { secretStores: [t], sources: [10.0.0] }
";
    assert_eq!(
        findings(text),
        [
            "error bad-host 3:23",
            "error not-a-string 3:29",
            "error bad-host 3:33",
            "error unknown-field 4:5",
            "error unknown-field 6:20",
            "error unknown-field 6:30",
            "error bad-name 7:7",
            "error unknown-store 9:24",
            "error bad-source 9:38",
        ]
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    for (text, expected) in [
        (with_list("['*.com']"), "warning public-suffix 3:23"),
        (with_list("['*.co.uk']"), "warning public-suffix 3:23"),
        (with_list("['*.github.io']"), "warning public-suffix 3:23"),
        (with_list("['*.amazonaws.com']"), "warning public-suffix 3:23"),
        (with_list("[A.test, a.test]"), "warning duplicate-item 3:31"),
        (with_list("[аpple.test]"), "warning mixed-scripts 3:23"),
        (
            with_list("[a.test, b.test]\n    egressDenylist: ['*.test']").replace(", b.test", ""),
            "warning covered-by-deny 3:23",
        ),
        (with_secret("from: { env: A }, allowedHosts: [nowhere.test]"), "warning dead-grant 5:45"),
        (with_secret("from: { env: A }, allowedHosts: ['*.test']"), "warning wildcard-grant 5:45"),
        (with_secret("from: { value: 'long enough value' }"), "warning literal-value 5:20"),
        ("sandboxes: { sb: {} }".to_owned(), "warning unrestricted 1:14"),
        (
            "sandboxes: { sb: { secretStores: [s] } }\nsecretStores: { s: {} }".to_owned(),
            "warning unrestricted 1:14",
        ),
    ] {
        assert_eq!(findings(&text), [expected], "{text}");
    }
    assert_eq!(
        findings(&with_list("[bücher.test, faß.test, '*.example.com', '*.internal']")),
        [""; 0]
    );
}

#[test]
fn one_value_under_two_names_is_noticed() {
    let text = "secretStores:\n  s:\n    egressAllowlist: [a.test]\n    secrets:\n      A: { from: { value: correct-horse } }\n      B: { from: { value: correct-horse } }\n";
    assert!(findings(text).contains(&"warning same-value 6:20".to_owned()));
}

#[test]
fn no_finding_shows_a_value() {
    let mistakes = [
        "      K: { from: { value: hunter2-hunter2 }, allowedHosts: [a..b] }\n",
        "      K: { from: { valeu: hunter2-hunter2 } }\n",
        "      K: { form: { value: hunter2-hunter2 } }\n",
        "      K: { form: hunter2-hunter2 }\n",
        "      K: { from: hunter2-hunter2 }\n",
        "      K:\n        from:\n          value: |\n            hunter2-hunter2\n            hunter2-hunter2\n",
        "      K: { from: { value: [hunter2-hunter2] } }\n",
        "      K: { value: hunter2-hunter2 }\n",
        "      K: { from: { value: \"hunter2-hunter2\\u0007\" } }\n",
        "      K: { from: { value: hunter2-hunter2 }, from: { env: A } }\n",
        "      K: { from: { value: hunter2-hunter2 ]\n",
    ];
    for mistake in mistakes {
        let text = format!("secretStores:\n  s:\n    secrets:\n{mistake}");
        let loaded = PolicySet::read(Path::new("p.yaml"), &text);
        assert!(loaded.set.is_none(), "{mistake}");
        for diagnostic in &loaded.diagnostics {
            let shown = format!("{diagnostic} {} {diagnostic:?}", diagnostic.render(false));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[test]
fn a_finding_is_rendered_with_its_line() {
    let loaded = PolicySet::read(Path::new("p.yaml"), &with_list("[a.test, a..b]"));
    let shown = loaded.diagnostics[0].render(false);
    for part in
        ["error[bad-host]", "p.yaml:3:31", "egressAllowlist: [a.test, a..b]", "^^^^", "help: "]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(
        loaded.diagnostics[0]
            .to_string()
            .starts_with("p.yaml:3:31: error: `a..b` is not a host pattern")
    );
}

#[test]
fn bombs_and_deep_nesting_are_refused_quickly() {
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\n".to_owned();
    let deep_list = "[".repeat(100_000);
    let deep_map = "{a: ".repeat(100_000);
    let deep_block: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let wide = format!("[{}]", "a,".repeat(300_000));
    let nothing = "\n".repeat(1 << 20);
    for text in [bomb, deep_list, deep_map, deep_block, wide, nothing] {
        let start = std::time::SystemTime::now();
        assert!(!findings(&text).is_empty());
        assert!(start.elapsed().unwrap().as_secs() < 5);
    }
}

#[test]
fn a_byte_order_mark_is_accepted_and_moves_no_column() {
    assert_eq!(findings("\u{feff}secretStores: { s: { egressAllowlist: [a.test] } }\n"), [""; 0]);
    assert_eq!(
        findings("\u{feff}secretStores: { s: { egressAllowlist: [a..b] } }\n"),
        ["error bad-host 1:40"]
    );
}

#[test]
fn json_is_accepted() {
    let text = "{\n\t\"secretStores\": {\n\t\t\"s\": {\"egressAllowlist\": [\"a.test\"]}\n\t}\n}\n";
    assert_eq!(findings(text), [""; 0]);
}
