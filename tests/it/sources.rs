//! Where values come from: environment, file, command. What cannot be fetched is never replaced by something else.

use std::time::Duration;

use crate::support::{Tollgate, Upstream, fresh_value};

fn policy(source: &str) -> String {
    format!(
        "secretStores:\n  keys:\n    egressAllowlist: [api.example.com]\n    secrets:\n      KEY: {{ from: {source}, allowedHosts: [api.example.com] }}\nsandboxes: {{ sb-test: {{ secretStores: [keys] }} }}\n"
    )
}

async fn assert_arrives(source: &str, files: &[(&str, &str)], value: &str) {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "").await;
    let policy = policy(source);
    let described = Tollgate::describe(&policy, &[&upstream]);
    let described =
        files.iter().fold(described, |described, (name, text)| described.file(name, text));
    let tollgate = described.start().await;
    tollgate.watch(value, &["api.example.com"]);
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.get_with("https://api.example.com/", "x-key", sandbox.token("KEY")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.request().header("x-key").unwrap(), value);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_value_comes_from_a_file_without_its_last_newline() {
    let value = fresh_value("file");
    assert_arrives("{ file: key.txt }", &[("key.txt", &format!("{value}\n"))], &value).await;
}

#[tokio::test]
async fn a_value_comes_from_a_commands_output() {
    let value = fresh_value("command");
    assert_arrives(&format!("{{ command: [echo, {value}] }}"), &[], &value).await;
}

#[tokio::test]
async fn a_value_comes_from_the_environment() {
    // No test sets a variable of its own process: one that cargo sets stands in for a secret.
    let Ok(value) = std::env::var("CARGO_PKG_DESCRIPTION") else { return };
    assert_arrives("{ env: CARGO_PKG_DESCRIPTION }", &[], &value).await;
}

#[tokio::test]
async fn a_file_that_changes_is_read_again() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "").await;
    let (old, new) = (fresh_value("old"), fresh_value("new"));
    let tollgate = Tollgate::describe(&policy("{ file: key.txt }"), &[&upstream])
        .file("key.txt", &old)
        .start()
        .await;
    for value in [&old, &new] {
        tollgate.watch(value, &["api.example.com"]);
    }
    let sandbox = tollgate.sandbox("sb-test");
    sandbox.get_with("https://api.example.com/", "x-key", sandbox.token("KEY")).await;
    std::fs::write(tollgate.folder().join("policies/key.txt"), &new).unwrap();
    let mut last = String::new();
    for _ in 0..60 {
        sandbox.get_with("https://api.example.com/", "x-key", sandbox.token("KEY")).await;
        last = upstream.requests().last().unwrap().header("x-key").unwrap();
        if last == new {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last, new);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_value_that_cannot_be_fetched_is_503_and_nothing_leaves() {
    let upstream = Upstream::https("api.example.com").await;
    for source in [
        "{ file: missing.txt }",
        "{ env: TOLLGATE_TEST_NOT_SET }",
        "{ command: [\"false\"] }",
        "{ command: [/nonexistent/program] }",
    ] {
        let tollgate = Tollgate::with(&policy(source), &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let answer =
            sandbox.get_with("https://api.example.com/", "x-key", sandbox.token("KEY")).await;
        assert_eq!((answer.status, answer.reason()), (503, "secret_unavailable"), "{source}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("KEY"), "{}", answer.text());
        tollgate.finish().await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn what_a_failing_command_prints_is_shown_to_nobody() {
    let upstream = Upstream::https("api.example.com").await;
    let value = fresh_value("printed");
    let source = format!("{{ command: [sh, -c, \"echo {value}; echo {value} >&2; exit 3\"] }}");
    let tollgate = Tollgate::with(&policy(&source), &[&upstream]).await;
    tollgate.watch(&value, &[]);
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.get_with("https://api.example.com/", "x-key", sandbox.token("KEY")).await;
    assert_eq!(answer.reason(), "secret_unavailable");
    tollgate.finish().await;
}
