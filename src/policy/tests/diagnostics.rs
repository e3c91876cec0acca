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

fn only_error(text: &str) -> (String, String) {
    let loaded = PolicySet::read(Path::new("p.yaml"), text);
    let mut errors = loaded.diagnostics.into_iter().filter(|d| d.severity == Severity::Error);
    let first = errors.next().unwrap_or_else(|| panic!("no error in\n{text}"));
    assert_eq!(errors.next().map(|d| d.to_string()), None, "in\n{text}");
    let hint = first.hint.unwrap_or_default();
    (format!("{} {}:{}", first.code, first.line, first.column), hint)
}

#[test]
fn each_mistake_is_an_error_at_its_place_with_a_hint() {
    for (text, expected, hint) in [
        ("", "empty-file 1:1", "secretStores"),
        ("# only a comment\n", "empty-file 1:1", "secretStores"),
        ("{}", "empty-file 1:1", "secretStores"),
        ("[]", "wrong-kind 1:1", "field: value"),
        ("sandboxes: [", "syntax 1:13", "brackets"),
        ("secretStores:\n  a: {}\n---\nsecretStores: {}\n", "several-documents 3:1", "---"),
        ("secretStores: &x {}\n", "anchor 1:18", "store of its own"),
        ("secretStores: !!map {}\n", "tag 1:21", "quotes"),
        ("secretstores: {}\nsandboxes: {}\n", "unknown-field 1:1", "did you mean `secretStores`"),
        (
            "sandboxes:\n  sb: { source: [10.0.0.1], secretStores: [s] }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "unknown-field 2:9",
            "did you mean `sources`",
        ),
        ("secretStores: { a: {} }\nsecretStores: {}\n", "duplicate-key 2:1", "keep one"),
        ("secretStores: { a: {}, a: {} }\n", "duplicate-key 1:24", "keep one"),
        ("secretStores:\n  a: { <<: {} }\n", "merge-key 2:8", "write the fields out"),
        ("secretStores: { 'a b': {} }\n", "bad-name 1:17", "letters"),
        ("secretStores: { 12: {} }\n", "not-a-string 1:17", "quotes"),
        ("secretStores: { a: }\n", "wrong-kind 1:20", "leave it out"),
        ("sandboxes: { sb: { secretStores: [nobody] } }\n", "unknown-store 1:35", "define it"),
        (
            "sandboxes: { sb: { secretStores: [gti] } }\nsecretStores: { git: { egressAllowlist: [a.test] } }",
            "unknown-store 1:35",
            "did you mean `git`",
        ),
        ("sandboxes: { sb: { secretStores: [] } }\n", "empty-list 1:34", "base first"),
        (
            "sandboxes: { sb: { secretStores: [s], sources: [10.0.0.5/24] } }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "bad-source 1:49",
            "10.0.0.0/24",
        ),
        (
            "sandboxes: { sb: { secretStores: [s], sources: [0.0.0.0/0] } }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "bad-source 1:49",
            "every client",
        ),
        (
            "sandboxes:\n  a: { secretStores: [s], sources: [10.0.0.0/24] }\n  b: { secretStores: [s], sources: [10.0.0.9] }\nsecretStores: { s: { egressAllowlist: [a.test] } }\n",
            "same-source 3:37",
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
        ("[]", "empty-list 3:22", "does not mean"),
        ("a.test", "wrong-kind 3:22", "brackets"),
        ("[a..b]", "bad-host 3:23", "empty label"),
        ("[http://a.test]", "bad-host 3:23", "not a URL"),
        ("['api.*.test']", "bad-host 3:23", "whole first label"),
        ("['a*.test']", "bad-host 3:23", "whole first label"),
        ("['*a.test']", "bad-host 3:23", "whole first label"),
        ("['*.*.test']", "bad-host 3:23", "whole first label"),
        ("['foo.*']", "bad-host 3:23", "whole first label"),
        ("['a.test:0']", "bad-host 3:23", "65535"),
        ("['a.test:65536']", "bad-host 3:23", "65535"),
        ("['127.1']", "bad-host 3:23", "canonical"),
        ("[\"a\\0b\"]", "nul 3:23", "remove"),
        ("[{ hots: a.test, host: a.test }]", "unknown-field 3:25", "`host`"),
        ("[{ methods: [GET] }]", "missing-field 3:23", "host:"),
        ("[{ host: a.test, methods: [get] }]", "bad-method 3:49", "GET"),
        ("[{ host: a.test, methods: [TRACE] }]", "bad-method 3:49", "never"),
        ("[{ host: a.test, methods: [] }]", "empty-list 3:48", "leave `methods` out"),
        ("[{ host: a.test, paths: [simple] }]", "bad-path 3:47", "starts with"),
        ("[{ host: a.test, paths: ['/../x'] }]", "bad-path 3:47", "decoded"),
        ("[{ host: a.test, schemes: [ftp] }]", "bad-scheme 3:49", "https"),
        ("[{ host: a.test, tls: passthrough }]", "not-carried-yet 3:40", "remove"),
        ("[{ host: a.test, scrub: false }]", "not-carried-yet 3:40", "remove"),
    ] {
        let text = with_list(list);
        // A NUL is refused twice: as a character of the file, and as one of a host.
        let (found, found_hint) = if list.contains("\\0") {
            let first = PolicySet::read(Path::new("p.yaml"), &text).diagnostics.swap_remove(1);
            (format!("{} {}:{}", first.code, first.line, first.column), first.hint.unwrap())
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
            "not-a-string 3:23",
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
        ("allowedHosts: [a.test]", "missing-field 5:10", "env"),
        ("from: {}", "bad-source-of-secret 5:18", "env"),
        ("from: { env: A, file: B }", "bad-source-of-secret 5:18", "env"),
        ("from: { env: '' }", "empty-string 5:25", "another source"),
        ("from: { env: 1 }", "not-a-string 5:25", "quotes"),
        ("from: { enw: A }", "unknown-field 5:20", "`env`"),
        ("from: { command: 'op read' }", "wrong-kind 5:29", "op, read"),
        ("from: { command: [] }", "empty-list 5:29", "program"),
        ("from: { env: A, refresh: 10m }", "bad-source-of-secret 5:28", "remove"),
        ("from: { command: [a], refresh: 10 }", "bad-duration 5:43", "unit"),
        ("from: { command: [a], refresh: 0s }", "bad-duration 5:43", "unit"),
        ("from: { command: [a], refresh: -1s }", "bad-duration 5:43", "unit"),
        ("from: { command: [a], refresh: 10x }", "bad-duration 5:43", "unit"),
        ("from: { command: [a], timeout: 18446744073709551616s }", "bad-duration 5:43", "unit"),
        ("from: { value: '' }", "bad-value 5:20", "quotes"),
        ("from: { value: \"a long enough\\nvalue\" }", "bad-value 5:20", "|-"),
        ("from: { env: A }, allowedHosts: []", "empty-list 5:42", "own store"),
        ("from: { env: A }, allowedHosts: ['http://a.test']", "bad-host 5:43", "not a URL"),
        ("from: { env: A }, allowedHosts: ['a.test:80']", "plain-http 5:43", "TLS"),
        ("from: { env: A }, locations: [query]", "not-carried-yet 5:40", "header"),
        ("from: { env: A }, locations: [cookie]", "bad-location 5:40", "`query`"),
        ("from: { env: A }, placeholder: 'ghp_{sealed:36}'", "not-carried-yet 5:28", "remove"),
        ("from: { env: A }, headers: []", "empty-list 5:37", "leave the field out"),
        ("from: { env: A }, headers: ['a b']", "bad-header 5:38", "x-api-key"),
        ("from: { env: A }, headers: [Host]", "bad-header 5:38", "frames"),
        ("from: { env: A }, allowed_hosts: [a.test]", "unknown-field 5:28", "`allowedHosts`"),
        ("from: { value: 'too short' }, allowedHosts: ['*.a.test']", "short-value 5:20", "exact"),
        (
            "from: { env: A }, inject: { header: x-key, format: '{value}' }",
            "inject-needs-exact-hosts 5:28",
            "without",
        ),
        (
            "from: { env: A }, allowedHosts: ['*.a.test'], inject: { header: x-key, format: '{value}' }",
            "inject-needs-exact-hosts 5:56",
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
        assert_eq!(only_error(&text).0, "bad-header 5:75", "{header}");
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
        assert_eq!(only_error(&text).0, "bad-format 5:90", "{format}");
    }
    assert_eq!(only_error(&with("header: x-key")).0, "missing-field 5:65");
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
    assert_eq!(only_error(&text("")).0, "unbound-secret 1:35");
    assert_eq!(findings(&text(", allowedHosts: ['*']")), ["warning wildcard-grant 1:69"]);
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
    assert_eq!(only_error(&text("a.test", "a.test:443", "s1, s2")).0, "injected-twice 4:14");
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
            "error bad-source-of-secret 6:18",
            "error unknown-field 6:20",
            "error unknown-field 6:30",
            "error bad-name 7:7",
            "warning dead-grant 7:54",
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
        (with_secret("from: { env: A }, allowedHosts: [nowhere.test]"), "warning dead-grant 5:43"),
        (with_secret("from: { env: A }, allowedHosts: ['*.test']"), "warning wildcard-grant 5:43"),
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
