//! AWS's own clients, unchanged, against a server that checks every signature with botocore.

use serde_json::{Value, json};

use crate::clients::{Server, in_sandbox, python, report, run, server};
use crate::support::{Tollgate, fresh_value};

const POLICY: &str = r#"
secretStores:
  aws:
    egressAllowlist: ["*.amazonaws.com"]
    secrets:
      AWS_ACCESS_KEY_ID:
        from: { value: $ID }
        allowedHosts: ["*.amazonaws.com"]
        placeholder: "AKIA{sealed:16:A-Z2-7}"
      AWS_SECRET_ACCESS_KEY: { from: { value: $SECRET }, allowedHosts: ["*.amazonaws.com"], sign: aws-sigv4 }
      AWS_SESSION_TOKEN: { from: { value: $SESSION }, allowedHosts: ["*.amazonaws.com"] }
sandboxes: { sb-test: { secretStores: [aws] } }
"#;
const HOSTS: [&str; 3] = [
    "s3.eu-west-1.amazonaws.com",
    "bucket.s3.eu-west-1.amazonaws.com",
    "sts.eu-west-1.amazonaws.com",
];

/// A Tollgate in front of the server of all hosts.
async fn in_front(python: &str, folder: &std::path::Path) -> (Tollgate, Server) {
    let [id, secret, session] = ["id", "secret", "session"].map(fresh_value);
    let policy =
        POLICY.replace("$ID", &id).replace("$SECRET", &secret).replace("$SESSION", &session);
    let keys =
        ["--access-key-id", &id, "--secret-access-key", &secret, "--session-token", &session];
    let server = server(python, "s3_server.py", &HOSTS, folder, &keys).await;
    let to = format!("127.0.0.1:{}", server.port());
    let connect: serde_json::Map<String, Value> =
        HOSTS.iter().map(|host| (format!("{host}:443"), json!(to))).collect();
    let config = json!({ "upstream": { "connectTo": connect } });
    (Tollgate::describe(&policy, &[]).config(config).start().await, server)
}

#[tokio::test]
async fn boto3_lists_puts_and_gets_with_sealed_keys() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (tollgate, server) = in_front(&python, folder.path()).await;
    let line = report(&tollgate, &python, "aws_boto3.py", &[]).await;
    let requests = server.lines();
    let hashes = &line["hashes"];
    for way in ["plain", "signed", "parts", "presigned"] {
        assert!(
            hashes[way].is_string() && hashes[way] == hashes["sent"],
            "{way}: {line} {requests:#?}"
        );
    }
    assert_eq!(line["listed"], json!(["plain key(1)", "signed key(1)"]), "{line}");
    assert_eq!(line["account"], "123456789012", "{line}");
    let seen = |kind: &dyn Fn(&str) -> bool| {
        requests.iter().any(|line| line["payload"].as_str().is_some_and(kind))
    };
    assert!(seen(&|kind| kind == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), "{requests:#?}");
    assert!(seen(&|kind| kind.len() == 64) && seen(&|kind| kind == "presigned"), "{requests:#?}");
    assert!(requests.iter().all(|line| line["refused"].is_null()), "{requests:#?}");
    tollgate.finish().await;
}

#[tokio::test]
async fn the_aws_command_line_lists_puts_and_gets_with_sealed_keys() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (tollgate, server) = in_front(&python, folder.path()).await;
    let sent: Vec<u8> =
        (0..10u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let [from, to, in_parts] =
        ["sent", "got", "in-parts"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&from, &sent).unwrap();
    let (from, to, in_parts) = (from.as_str(), to.as_str(), in_parts.as_str());
    for arguments in [
        vec!["s3", "cp", "--only-show-errors", from, "s3://bucket/a/key"],
        vec!["s3", "ls", "--recursive", "s3://bucket/"],
        vec!["s3api", "get-object", "--bucket", "bucket", "--key", "a/key", to],
        vec!["s3", "cp", "--only-show-errors", "s3://bucket/a/key", in_parts],
        vec!["sts", "get-caller-identity"],
    ] {
        let arguments = [&["-m", "awscli"], &arguments[..]].concat();
        let mut command = in_sandbox(&tollgate, &python, &arguments);
        command.env("AWS_DEFAULT_REGION", "eu-west-1");
        let (fine, out, err) = run(&tollgate, command).await;
        assert!(fine, "{arguments:?}: {err} {:#?}", server.lines());
        assert!(!arguments.contains(&"ls") || out.contains("10485760 a/key"), "{out}");
    }
    for got in [to, in_parts] {
        assert!(std::fs::read(got).unwrap() == sent, "another object came back");
    }
    assert!(server.lines().iter().all(|line| line["refused"].is_null()), "{:#?}", server.lines());
    tollgate.finish().await;
}
