//! Any body of any kind: however it is cut, the same tokens open as in a plain reading, and nothing that was written is read again.
#![no_main]

mod compose;
mod opened;

use std::sync::{Arc, LazyLock};

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use tokio::runtime::Runtime;
use tollgate::config::{ByteSize, Limits};
use tollgate::policy::{Denial, RequestPermit};
use tollgate::proxy::BodyPieces;
use tollgate::proxy::fuzzing::{Sandbox, count};
use tollgate::secret::{SealKey, SecretName, TokenFinder};

use self::opened::{Escapes, Secret, opened, opened_parts};

const KINDS: [(&str, Escapes); 6] = [
    ("application/json", Escapes::Json),
    ("application/x-ndjson", Escapes::Json),
    ("application/x-www-form-urlencoded", Escapes::Percent),
    ("multipart/form-data; boundary=x", Escapes::None),
    ("application/grpc", Escapes::None),
    ("application/grpc+json", Escapes::Json),
];

/// The longest gRPC message that is looked at.
const MOST: usize = 2000;

struct Setting {
    runtime: Runtime,
    sandbox: Sandbox,
    permit: RequestPermit,
    secrets: Vec<Secret>,
    longest_value: usize,
    snippets: Vec<Vec<u8>>,
}

/// A body as it leaves, the secrets that were opened in it, and how many tokens went on as they were.
#[derive(Debug, PartialEq, Eq)]
struct Rewritten {
    body: Vec<u8>,
    opened: Vec<SecretName>,
    passed: u64,
}

const HOST: &str = "api.example.com";

/// The first value holds the second's token, which must not be opened in its turn. The last secret is not opted in.
static SETTING: LazyLock<Setting> = LazyLock::new(|| {
    let second = SealKey::new(&[1; 32]).seal(&"sb".parse().unwrap(), 0, &"SECOND".parse().unwrap());
    let first = format!("a\"b\\c\n{}é%41&=", second.as_str());
    let secrets = [
        ("FIRST", first.as_str(), ""),
        ("SECOND", "v", ""),
        ("SHAPED", "x\u{1}y", ", placeholder: \"os_{sealed:20}\""),
        ("OTHER", "of-no-body", ""),
    ];
    let written = secrets.map(|(name, value, more)| {
        let place = if name == "OTHER" { "header" } else { "body" };
        let value = serde_json::to_string(value).unwrap();
        format!("      {name}: {{ from: {{ value: {value} }}, allowedHosts: [{HOST}], locations: [{place}]{more} }}\n")
    });
    let policy = format!(
        "secretStores:\n  s:\n    egressAllowlist: [{HOST}]\n    secrets:\n{}sandboxes:\n  sb: {{ secretStores: [s] }}\n",
        written.concat()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sandbox = runtime.block_on(Sandbox::new(&policy));
    let permit = sandbox.permit(&Method::POST, HOST);
    let secrets: Vec<_> = secrets
        .iter()
        .map(|(name, value, _)| {
            let sealed = sandbox.session().by_name(&name.parse().unwrap()).unwrap();
            let value = (*name != "OTHER").then(|| (*value).to_owned());
            Secret { token: sealed.token.as_str().as_bytes().to_vec(), value }
        })
        .collect();
    let mut snippets: Vec<_> = secrets.iter().map(|secret| secret.token.clone()).collect();
    let strange = SealKey::new(&[4; 32]).seal(&"sb".parse().unwrap(), 0, &"X".parse().unwrap());
    snippets.push(strange.as_str().as_bytes().to_vec());
    snippets.extend(
        [
            "{\"a\":\"",
            "\",\"b\":[\"",
            "\"]}",
            "\n",
            "\r\n--x\r\n",
            "&k=",
            "--x\r\nContent-Type:",
            "application/json\r\n\r\n",
            "application/x-www-form-urlencoded\n\n",
        ]
        .map(Vec::from),
    );
    let lengths = secrets.iter().filter_map(|secret| Some(secret.value.as_ref()?.len() * 6));
    let longest_value = lengths.max().unwrap();
    Setting { runtime, sandbox, permit, secrets, longest_value, snippets }
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let Some((lengths, data)) = compose::split(data) else { return };
    let (content_type, escapes) = KINDS[usize::from(*kind) % KINDS.len()];
    let multipart = content_type.starts_with("multipart/");
    let grpc = content_type.starts_with("application/grpc");
    // Some bodies are messages with true lengths, so that the fuzzer need not guess them.
    let body = if grpc && kind & 0x80 == 0 {
        framed(data)
    } else {
        compose::text(data, &SETTING.snippets)
    };
    let whole = rewritten(content_type, &[&body]);
    assert_eq!(whole, rewritten(content_type, &compose::pieces(&body, &lengths)));
    if body.len() < 4096 {
        assert_eq!(whole, rewritten(content_type, &body.chunks(1).collect::<Vec<_>>()));
    }
    // Only where messages are held may their values be too much.
    let Ok(whole) = whole else { return assert!(grpc && body.len() > MOST / 10) };
    assert!(whole.body.len() <= longest(&body));
    if grpc {
        messages(&body, &whole.body, escapes);
    } else if multipart {
        let (expected, count) = opened_parts(&body, b"--x", &SETTING.secrets);
        assert_eq!(shown(&whole.body), shown(&expected));
        assert_eq!(whole.opened.is_empty(), count == 0);
    } else {
        text(&body, &whole, escapes);
    }
    let plain = Arc::new(TokenFinder::default());
    assert_eq!(count(&plain, compose::pieces(&body, &lengths)), plain.find(&body).count() as u64);
});

fn rewritten(content_type: &'static str, pieces: &[&[u8]]) -> Result<Rewritten, String> {
    let Setting { runtime, sandbox, permit, .. } = &*SETTING;
    let most = if content_type.starts_with("application/grpc") { MOST } else { usize::MAX };
    let limits = Limits { buffered_body: ByteSize::bytes(most), ..Limits::default() };
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let stream = BodyPieces::of(sandbox.session(), permit, &headers, &limits);
    let mut stream = runtime.block_on(stream).unwrap();
    let mut body = Vec::new();
    let why = |denial: Denial| format!("{denial:?}");
    pieces.iter().try_for_each(|piece| stream.push(piece, &mut body)).map_err(why)?;
    stream.finish(&mut body).map_err(why)?;
    let (opened, passed) = stream.found();
    Ok(Rewritten { body, opened, passed })
}

/// Every token is at least 23 bytes long, and every length around it grows by less than ten.
fn longest(body: &[u8]) -> usize {
    body.len() + body.len() / 23 * (SETTING.longest_value + 32 * 10)
}

fn framed(data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for message in data.split(|byte| *byte == 0xff) {
        let (flag, message) = message.split_first().unwrap_or((&0, &[]));
        let message = compose::text(message, &SETTING.snippets);
        body.push(u8::from(*flag == 1));
        body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&message);
    }
    body
}

fn text(body: &[u8], whole: &Rewritten, escapes: Escapes) {
    let (expected, count) = opened(body, escapes, &SETTING.secrets);
    assert_eq!(shown(&whole.body), shown(&expected));
    assert_eq!(whole.opened.is_empty(), count == 0);
    match escapes {
        Escapes::Json => {
            // A value cannot end the string that its token stands in, nor its line.
            for (before, after) in lines(body).zip(lines(&whole.body)) {
                assert_eq!(is_json(before), is_json(after), "{}", shown(after));
            }
            assert_eq!(lines(body).count(), lines(&whole.body).count());
        }
        Escapes::Percent => {
            let separators =
                |text: &[u8]| text.iter().filter(|byte| matches!(byte, b'&' | b'=')).count();
            assert_eq!(separators(body), separators(&whole.body));
        }
        Escapes::None => {}
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// As many messages leave as came, with the same flags; what is compressed, too long or not whole is untouched.
fn messages(before: &[u8], after: &[u8], escapes: Escapes) {
    let (before, rest_before) = unframed(before);
    let (after, rest_after) = unframed(after);
    assert_eq!(before.len(), after.len());
    assert_eq!(shown(rest_before), shown(rest_after));
    for ((flag, before), (flag_after, after)) in before.into_iter().zip(after) {
        assert_eq!(flag, flag_after);
        let (expected, count) = opened(before, escapes, &SETTING.secrets);
        if flag != 0 || before.len() > MOST || count == 0 {
            assert_eq!(shown(before), shown(after));
        } else if escapes != Escapes::None {
            assert_eq!(shown(after), shown(&expected));
        } else {
            // Lengths within protobuf may change too; no token stays but those that stood in values.
            let tokens = |text: &[u8]| SETTING.sandbox.session().finder().find(text).count();
            assert_eq!(tokens(after), tokens(&expected), "{}", shown(after));
        }
    }
}

fn unframed(mut body: &[u8]) -> (Vec<(u8, &[u8])>, &[u8]) {
    let mut messages = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((message, rest)) = rest.split_at_checked(length) else { break };
        messages.push((*flag, message));
        body = rest;
    }
    (messages, body)
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
