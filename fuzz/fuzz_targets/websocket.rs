//! Any frames of either side: the same messages and the same end however they are cut, tokens opened as in a plain reading on the way out, and
//! no value left on the way back.
#![no_main]

mod compose;
mod opened;
mod pieces;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use tokio::runtime::Runtime;
use tollgate::proxy::fuzzing::Sandbox;

use self::opened::{Escapes, Secret, opened};
use self::pieces::{Pieces, assert_same_beginning, drain};

/// The first value holds no token, since the second's is not known to whoever writes a policy; it needs escapes instead.
const VALUES: [(&str, &str); 3] = [
    ("ODD", "an odd \"value\" \\ of é"),
    ("LONG", "a-value-of-many-characters-0123456789"),
    ("HEAD", "a-value-for-the-head-0123456789"),
];

const POLICY: &str = r#"
secretStores:
  s:
    egressAllowlist: [api.example.com]
    secrets:
      ODD: { from: { value: "an odd \"value\" \\ of é" }, allowedHosts: [api.example.com], locations: [websocket], placeholder: "os_{sealed:40}" }
      LONG: { from: { value: a-value-of-many-characters-0123456789 }, allowedHosts: [api.example.com], locations: [websocket] }
      HEAD: { from: { value: a-value-for-the-head-0123456789 }, allowedHosts: [api.example.com] }
sandboxes:
  sb: { secretStores: [s] }
"#;

/// The longest text message. Its tokens are longer than what is written for them, so that this bounds the values too.
const MOST: usize = 400;

struct Setting {
    runtime: Runtime,
    sandbox: Sandbox,
    secrets: Vec<Secret>,
    snippets: Vec<Vec<u8>>,
}

static SETTING: LazyLock<Setting> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sandbox = runtime.block_on(Sandbox::new(POLICY));
    let sealed = sandbox.session().secrets();
    let secret = |(name, value): &(&str, &str)| {
        let sealed = sealed.iter().find(|secret| secret.bound.name.to_string() == *name).unwrap();
        let value = (*name != "HEAD").then(|| (*value).to_owned());
        Secret { token: sealed.token.as_str().as_bytes().to_vec(), value }
    };
    let secrets: Vec<_> = VALUES.iter().map(secret).collect();
    let mut snippets: Vec<_> = secrets.iter().map(|secret| secret.token.clone()).collect();
    for secret in &secrets {
        let token = str::from_utf8(&secret.token).unwrap();
        snippets.push(format!("{{\"a\":\"{token}\"}}").into_bytes());
        snippets.push(format!("42[\"\\n{}\"]", token.replacen('_', "\\u005f", 1)).into_bytes());
    }
    snippets.extend(["{\"a\":\"", "\"}", "[\""].map(Vec::from));
    snippets.extend(VALUES.iter().map(|(_, value)| value.as_bytes().to_vec()));
    Setting { runtime, sandbox, secrets, snippets }
});

fuzz_target!(|data: &[u8]| {
    let [how, data @ ..] = data else { return };
    let Some((lengths, data)) = compose::split(data) else { return };
    let client = how & 1 == 0;
    let wire =
        if how & 2 == 0 { framed(data, client) } else { compose::text(data, &SETTING.snippets) };
    if client {
        to_upstream(&wire, &lengths);
    } else {
        to_client(&wire, lengths.first().copied());
    }
});

/// Frames with true lengths, so that the fuzzer need not guess them.
fn framed(mut data: &[u8], client: bool) -> Vec<u8> {
    let mut wire = Vec::new();
    while let [first, key, length, rest @ ..] = data {
        let (told, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let payload = compose::text(told, &SETTING.snippets);
        wire.push(*first);
        let masked = u8::from(client) << 7;
        match u16::try_from(payload.len()) {
            Ok(short @ ..126) => wire.push(masked | short as u8),
            Ok(length) => {
                wire.push(masked | 126);
                wire.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                wire.push(masked | 127);
                wire.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        let mask = if client { [*key, key ^ 1, key ^ 2, key ^ 3] } else { [0; 4] };
        wire.extend_from_slice(if client { &mask } else { &[] });
        wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        data = rest;
    }
    wire
}

/// A frame, or what there is of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
    length: usize,
    head: usize,
}

impl Frame {
    fn is_whole(&self) -> bool {
        self.payload.len() == self.length
    }
}

/// The frames up to one that this side may not send; then the code that ends the WebSocket. A last frame without any payload is not told yet.
fn frames(mut wire: &[u8], client: bool) -> (Vec<Frame>, Result<(), u16>) {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = wire {
        let (extended, length) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (2, usize::from(u16::from_be_bytes([*a, *b]))),
            (127, [length @ ..]) if length.len() >= 8 => {
                (8, u64::from_be_bytes(length[..8].try_into().unwrap()) as usize)
            }
            (126 | 127, _) => break,
            (short, _) => (0, usize::from(short)),
        };
        let masked = second & 0x80 != 0;
        let head = extended + if masked { 4 } else { 0 };
        if rest.len() < head {
            break;
        }
        let control = first & 8 != 0;
        let extension = first & 0x70 != 0 || !matches!(first & 15, 0..=2 | 8..=10);
        if masked != client || extension || control && (first & 0x80 == 0 || second & 0x7f > 125) {
            return (frames, Err(1002));
        }
        let mask: [u8; 4] = if masked { rest[extended..head].try_into().unwrap() } else { [0; 4] };
        let after = &rest[head..];
        let (payload, after) = after.split_at(after.len().min(length));
        if length > 0 && payload.is_empty() {
            break;
        }
        let payload =
            payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        frames.push(Frame { first: *first, payload, length, head: head + 2 });
        wire = after;
    }
    (frames, Ok(()))
}

fn to_upstream(wire: &[u8], lengths: &[usize]) {
    let expected = expected(wire);
    for pieces in [vec![wire], compose::pieces(wire, lengths), wire.chunks(1).collect()] {
        let mut messages = SETTING.sandbox.websocket("api.example.com", MOST);
        let mut out = Vec::new();
        let ended = SETTING.runtime.block_on(async {
            for piece in pieces {
                messages.push(piece, &mut out).await?;
            }
            Ok(())
        });
        let (told, readable) = frames(&out, true);
        assert_eq!(readable, Ok(()));
        let told: Vec<_> =
            told.into_iter().map(|frame| (frame.first, frame.length, frame.payload)).collect();
        assert_eq!((&told, ended), (&expected.0, expected.1));
    }
}

/// What a plain reading sends on, unmasked, and the code that ends it.
fn expected(wire: &[u8]) -> (Vec<(u8, usize, Vec<u8>)>, Result<(), u16>) {
    let (frames, end) = frames(wire, true);
    let as_it_is = |frame: &Frame| (frame.first, frame.length, frame.payload.clone());
    let mut out = Vec::new();
    let mut message: Option<(u8, Vec<Frame>)> = None;
    for frame in frames {
        if frame.first & 8 != 0 {
            if frame.is_whole() {
                out.push(as_it_is(&frame));
            }
            continue;
        }
        match (frame.first & 15, &mut message) {
            (0, Some((_, frames))) => frames.push(frame.clone()),
            (opcode @ 1.., None) => message = Some((opcode, vec![frame.clone()])),
            _ => return (out, Err(1002)),
        }
        let Some((opcode, frames)) = &message else { continue };
        if *opcode == 2 {
            out.push(as_it_is(&frame));
        } else if frames
            .iter()
            .map(|frame| frame.head.saturating_add(frame.length))
            .fold(0, usize::saturating_add)
            > MOST
        {
            return (out, Err(1009));
        }
        if !frame.is_whole() || frame.first & 0x80 == 0 {
            continue;
        }
        if *opcode == 1 {
            let text =
                frames.iter().map(|frame| frame.payload.as_slice()).collect::<Vec<_>>().concat();
            if str::from_utf8(&text).is_err() {
                return (out, Err(1007));
            }
            match opened(&text, escapes(&text), &SETTING.secrets) {
                (_, 0) => out.extend(frames.iter().map(as_it_is)),
                (text, _) => out.push((0x81, text.len(), text)),
            }
        }
        message = None;
    }
    (out, end)
}

/// A message that is JSON from some bracket on is read as JSON.
fn escapes(text: &[u8]) -> Escapes {
    let at = text.iter().position(|byte| b"{[\"".contains(byte));
    match at.map(|at| serde_json::from_slice::<IgnoredAny>(&text[at..])) {
        Some(Ok(_)) => Escapes::Json,
        _ => Escapes::None,
    }
}

fn to_client(wire: &[u8], piece: Option<usize>) {
    let whole = searched(wire, usize::MAX);
    let pieces = searched(wire, piece.unwrap_or(1));
    assert_same_beginning(&whole.0, &pieces.0);
    assert_eq!(whole.1.is_none(), pieces.1.is_none());
    assert!(whole.1.is_some() || whole.0 == pieces.0);
    // Frames keep their heads and lengths; messages lose every value.
    let (before, _) = frames(wire, false);
    let (after, _) = frames(&pieces.0, false);
    let mut message = Vec::new();
    let needles = SETTING.sandbox.session().needles().unwrap();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.first, before.length), (after.first, after.length));
        if after.first & 8 != 0 {
            assert!(!needles.is_in(&after.payload));
            continue;
        }
        message.extend_from_slice(&after.payload);
        for (before, after) in before.payload.iter().zip(&after.payload) {
            assert!(before == after || *after == b'*');
        }
        assert!(!needles.is_in(&message));
        if after.first & 0x80 != 0 {
            message.clear();
        }
    }
}

fn searched(wire: &[u8], piece: usize) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    drain(&mut SETTING.sandbox.searched(Pieces { bytes: wire, piece }))
}
