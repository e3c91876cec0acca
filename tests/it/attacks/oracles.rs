//! What a sandbox may learn of a value without seeing it: by lengths, digests, parts, differences between answers, and what others asked.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::wire::start;
use crate::support::{Attack, Builder, Outcome, P0, Stream, Tollgate, Upstream, read_request};

const ECHO: &str = "echo.allowed.test:443";
const ASKED: &str =
    r"GET /me HTTP/1.1\r\nHost: echo.allowed.test\r\nAuthorization: Bearer {{TOK_E}}\r\n\r\n";

/// `echo.allowed.test`, which answers each connection's request with bytes made of the value that it got.
fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Builder {
    let answer = std::sync::Arc::new(answer);
    Upstream::raw("echo.allowed.test", move |mut io: Stream| {
        let answer = answer.clone();
        async move {
            let request = String::from_utf8(read_request(&mut io).await).unwrap();
            let value = request.lines().find_map(|line| line.split_once(": Bearer ")?.1.into());
            drop(io.write_all(&answer(value.unwrap_or_default())).await);
            drop(io.shutdown().await);
        }
    })
}

/// An answer with these fields and this body, of stated length.
fn stated(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What a sandbox gets for [`ASKED`] where `KEY_E` has this value.
async fn got(value: &str, answer: fn(&str) -> Vec<u8>) -> Outcome {
    let policy = P0.replace("$KEY_E", value);
    let attack = start(&policy, answering(answer).await, json!({})).await;
    let outcome = attack.tunnel(ECHO, ASKED).await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    attack.finish().await;
    outcome
}

/// The length of an answer, and what of it stands in a random order.
fn shape(outcome: &Outcome) -> (usize, usize) {
    (outcome.bytes.len(), outcome.body.len())
}

#[tokio::test]
async fn ORACLE_004_the_sandboxs_side_has_the_length_of_the_token() {
    let answer = |value: &str| stated(&format!("X-Echo: {value}\r\n"), &format!("a {value} b"));
    let long = "x1".repeat(500);
    let shapes = [got("a-short-value-16", answer).await, got(&long, answer).await];
    assert_eq!(shape(&shapes[0]), shape(&shapes[1]));
}

/// A body that is held whole says the length of what leaves; a longer one keeps its stated length under a mask (DESIGN.md, Seals), which tells
/// how long a value is and nothing else of it.
#[tokio::test]
async fn ORACLE_005_stated_lengths_are_those_of_what_leaves() {
    for before in [0, (1 << 20) + 1] {
        for value in ["a-short-value-16", &"x1".repeat(500)] {
            let policy = P0.replace("$KEY_E", value);
            let echo =
                answering(move |value| stated("", &format!("{}{value} b", "a".repeat(before))));
            let attack = start(&policy, echo.await, json!({})).await;
            let outcome = attack.tunnel(ECHO, ASKED).await;
            let text = String::from_utf8_lossy(&outcome.bytes).to_ascii_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            assert_eq!(length.parse(), Ok(outcome.body.len()));
            let hidden = outcome.body[before..].strip_suffix(" b").unwrap();
            let mask = "*".repeat(value.len());
            assert_eq!(hidden, if before == 0 { attack.sandbox.token("KEY_E") } else { &mask });
            attack.finish().await;
        }
    }
}

#[tokio::test]
async fn ORACLE_006_no_digest_describes_a_body_in_which_a_value_may_have_been() {
    const FIELDS: &str = "ETag: \"0badf00d\"\r\nContent-MD5: 0badf00d\r\nDigest: md5=0badf00d\r\nRepr-Digest: sha-256=:0badf00d:\r\nContent-Digest: sha-256=:0badf00d:\r\n";
    // As long as a token, so that the length stays what it was.
    let value = "v".repeat(43);
    let whole = got(&value, |value| stated(FIELDS, &format!("a {value} b"))).await;
    assert!(!whole.bytes.windows(8).any(|eight| eight == b"0badf00d"), "{whole:?}");
    let streams: [fn(&str) -> Vec<u8>; 2] = [
        |value| stated(FIELDS, &format!("{}{value}", "a".repeat(2 << 20))),
        |value| {
            let fields = FIELDS.replace('\n', "\nTrailer: digest\r\n").replacen(
                "Trailer: digest\r\n",
                "",
                4,
            );
            format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{value}\r\n0\r\nDigest: md5=0badf00d\r\n\r\n", value.len()).into_bytes()
        },
    ];
    for answer in streams {
        let streamed = got(&value, answer).await;
        let text = String::from_utf8_lossy(&streamed.bytes).to_ascii_lowercase();
        assert!(!text.contains("0badf00d"), "{text}");
    }
    let clean = got(&value, |_| stated(FIELDS, "nothing to hide")).await;
    assert_eq!(String::from_utf8_lossy(&clean.bytes).matches("0badf00d").count(), 5);
}

#[tokio::test]
async fn ORACLE_007_parts_of_an_answer() {
    let attack = start(P0, answering(|_| stated("", "ok")).await, json!({})).await;
    for part in [
        "Range: bytes=100-101",
        "Range: bytes=0-0,2-2,4-4",
        r#"Range: bytes=0-1\r\nIf-Range: "x""#,
        "range:bytes=-1",
    ] {
        let text = ASKED.replacen(r"\r\n\r\n", &format!(r"\r\n{part}\r\n\r\n"), 1);
        assert_eq!(attack.tunnel(ECHO, &text).await.status, Some(200), "{text}");
    }
    let heard = String::from_utf8(attack.echo.received()).unwrap().to_ascii_lowercase();
    assert!(!heard.contains("range:") && heard.matches("get /me").count() == 4, "{heard}");
    attack.finish().await;
    let parts = [
        "Content-Range: bytes 0-9/100\r\n",
        "Content-Type: multipart/byteranges; boundary=x\r\n",
        "",
    ];
    for fields in parts {
        let echo = answering(move |value| {
            let part = &value[..10];
            format!("HTTP/1.1 206 Partial Content\r\n{fields}Content-Length: 10\r\n\r\n{part}")
                .into_bytes()
        });
        let attack = start(P0, echo.await, json!({})).await;
        assert_eq!(attack.tunnel(ECHO, ASKED).await.status, Some(502), "{fields}");
        attack.finish().await;
    }
}

/// A session knows no tokens but its own, by their whole text: there is nothing that a near miss could be compared with, letter by letter.
/// The answers are the same, so no clock is needed to tell them apart.
#[tokio::test]
async fn ORACLE_008_a_near_miss_of_a_foreign_token_is_like_any_other() {
    let attack = Attack::p0().await;
    let foreign = attack.tollgate.sandbox("sb-b").token("KEY_A").to_owned();
    let mut answers = Vec::new();
    for right in [0, 1, 16, 31, 32] {
        let (kept, rest) = foreign.split_at("osb_sealed_".len() + right);
        let wrong: String =
            rest.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
        let text = format!(
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {kept}{wrong}\r\n\r\n"
        );
        let outcome = attack.tunnel("api.allowed.test:443", &text).await;
        let mut problem: serde_json::Value = serde_json::from_str(&outcome.body).unwrap();
        problem.as_object_mut().unwrap().remove("requestID").unwrap();
        answers.push((outcome.status, outcome.reason, problem));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    attack.finish().await;
}

const TWO: &str = r#"
secretStores:
  mine:
    egressAllowlist: [shared.test, mine.test]
    secrets: { MY_KEY: { from: { value: $MY_KEY }, allowedHosts: [mine.test] } }
  theirs:
    egressAllowlist: [shared.test, theirs.test]
    secrets: { THEIR_KEY: { from: { value: $THEIR_KEY }, allowedHosts: [theirs.test] } }
sandboxes:
  sb-mine: { secretStores: [mine] }
  sb-theirs: { secretStores: [theirs] }
"#;

#[tokio::test]
async fn ORACLE_009_introspection_and_denials_tell_of_this_sandbox_only() {
    let upstream = Upstream::https("shared.test").also("mine.test").also("theirs.test").await;
    let tollgate = Tollgate::with(TWO, &[&upstream]).await;
    let (mine, theirs) = (tollgate.sandbox("sb-mine"), tollgate.sandbox("sb-theirs"));
    let mut told = String::new();
    for path in [
        "allowed-hosts",
        "allowed-hosts?provenance=true",
        "allowed-hosts?sandboxID=sb-theirs",
        "allowed-hosts/sb-theirs",
        "check?url=https://mine.test/&sandbox=sb-theirs",
        "check?url=https://elsewhere.test/",
        "env",
        "env?sandbox=sb-theirs",
    ] {
        let answer = mine.get(&format!("http://tollgate.internal/{path}")).await;
        told += &format!("{:?}{}", answer.headers, answer.text());
    }
    for (host, field) in [("elsewhere.test", ""), ("shared.test", mine.token("MY_KEY"))] {
        let answer = mine.get_with(&format!("https://{host}/"), "x-note", field).await;
        assert_eq!(answer.status, 403);
        told += &format!("{:?}{}", answer.headers, answer.text());
    }
    assert!(told.contains("mine.test") && told.contains("MY_KEY"), "{told}");
    let foreign = ["THEIR_KEY", "theirs.test", "\"theirs\"", theirs.token("THEIR_KEY")];
    for text in foreign.into_iter().chain([tollgate.value("THEIR_KEY").as_str()]) {
        assert!(!told.contains(text), "{text}: {told}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn ORACLE_011_no_answer_is_kept_for_anybody() {
    let fields = [("cache-control", "public, max-age=3600"), ("etag", "\"1\"")];
    let upstream = Upstream::https("shared.test").answering(200, &fields, "the same").await;
    let tollgate = Tollgate::with(TWO, &[&upstream]).await;
    for (nth, sandbox) in ["sb-mine", "sb-theirs", "sb-mine"].into_iter().enumerate() {
        let answer = tollgate.sandbox(sandbox).get("https://shared.test/same").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "the same"));
        assert_eq!(upstream.requests().len(), nth + 1);
    }
    tollgate.finish().await;
}
