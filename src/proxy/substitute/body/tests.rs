//! The streaming engine against a slow, obvious reference, for every kind of body and any pieces.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::secret::{Hide, Needles, SealKey, SealedToken, SecretValue};

fn kinds() -> [Kind; 6] {
    [
        Kind::Text(Encoding::Raw),
        Kind::Text(Encoding::Percent),
        Kind::Text(Encoding::Json),
        Kind::Grpc(Encoding::Raw),
        Kind::Grpc(Encoding::Json),
        Kind::Multipart(BOUNDARY.as_bytes().into()),
    ]
}

/// It begins like what stands in front of it.
const BOUNDARY: &str = "--x-";

/// The longest gRPC message that is looked at, and how much values may add.
const MOST: usize = 1200;

fn token(name: &str) -> SealedToken {
    static KNOWN: LazyLock<HashMap<&str, SealedToken>> = LazyLock::new(|| {
        ["FIRST", "SECOND", "SHAPED", "STRANGER", "BINARY"]
            .into_iter()
            .map(|name| (name, derived(name)))
            .collect()
    });
    KNOWN[name].clone()
}

fn derived(name: &str) -> SealedToken {
    let shape = (name == "SHAPED").then(|| "os_{sealed:20}".parse().unwrap());
    let (sandbox, secret) = ("sb".parse().unwrap(), name.parse().unwrap());
    SealKey::new(&[3; 32]).seal_as(shape.as_ref(), &sandbox, 0, &secret)
}

/// Each secret with its value; the first value holds the second's token, which must not be opened in its turn.
fn secrets() -> [(&'static str, String); 3] {
    [
        ("FIRST", format!("a\"b\\c\n{}é%41&=", token("SECOND").as_str())),
        ("SECOND", "v".to_owned()),
        ("SHAPED", "ghp_0123".to_owned()),
    ]
}

fn finder() -> Arc<TokenFinder> {
    Arc::new(TokenFinder::new(&secrets().map(|(name, _)| token(name))).unwrap())
}

fn rewriter(kind: &Kind) -> Rewriter {
    let secrets = secrets().map(|(name, value)| (token(name), value));
    rewriter_of(finder(), &secrets, kind)
}

fn rewriter_of(
    finder: Arc<TokenFinder>,
    secrets: &[(SealedToken, String)],
    kind: &Kind,
) -> Rewriter {
    let mut values = Values::default();
    for (nth, (token, value)) in secrets.iter().enumerate() {
        let name = format!("K{nth}").parse().unwrap();
        values.add(token, name, value.as_bytes(), kind);
    }
    Rewriter::new(finder, Arc::new(values), kind, MOST)
}

fn rewritten<'p>(kind: &Kind, pieces: impl Iterator<Item = &'p [u8]>) -> (Vec<u8>, Tally) {
    rewritten_by(rewriter(kind), pieces)
}

fn rewritten_by<'p>(
    mut rewriter: Rewriter,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> (Vec<u8>, Tally) {
    let mut out = Vec::new();
    for piece in pieces {
        rewriter.push(piece, &mut out).unwrap();
    }
    rewriter.finish(&mut out).unwrap();
    (out, rewriter.tally())
}

fn reference(kind: &Kind, body: &[u8]) -> Vec<u8> {
    reference_of(&secrets().map(|(name, value)| (token(name), Some(value))), kind, body)
}

/// A token without a value goes on as it is; what begins within it is no token.
type Sealed = (SealedToken, Option<String>);

fn reference_of(secrets: &[Sealed], kind: &Kind, body: &[u8]) -> Vec<u8> {
    match kind {
        Kind::Text(encoding) => text_reference(secrets, *encoding, body),
        Kind::Grpc(encoding) => grpc_reference(secrets, *encoding, body),
        Kind::Multipart(boundary) => multipart_reference(secrets, boundary, body),
    }
}

fn grpc_reference(secrets: &[Sealed], encoding: Encoding, mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((message, rest)) = rest.split_at_checked(length) else { break };
        let message = match flag {
            0 if length <= MOST => text_reference(secrets, encoding, message),
            _ => message.to_vec(),
        };
        out.push(*flag);
        out.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&message);
        body = rest;
    }
    out.extend_from_slice(body);
    out
}

/// Looks at every line in turn. No token stands in two, so each is a text of its own.
fn multipart_reference(secrets: &[Sealed], boundary: &[u8], body: &[u8]) -> Vec<u8> {
    let delimiter = [b"--", boundary].concat();
    let (mut encoding, mut head) = (Encoding::Raw, None::<String>);
    let mut out = Vec::new();
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if let Some(lines) = &mut head {
            lines.push_str(&String::from_utf8_lossy(line).to_ascii_lowercase());
            encoding = Encoding::Raw;
            out.extend_from_slice(&text_reference(secrets, encoding, line));
            if line == b"\n" || line == b"\r\n" {
                encoding = match lines.lines().find_map(|line| line.strip_prefix("content-type:")) {
                    Some(json) if json.contains("json") => Encoding::Json,
                    Some(form) if form.contains("form-urlencoded") => Encoding::Percent,
                    _ => Encoding::Raw,
                };
                head = None;
            }
            continue;
        }
        if let Some(behind) = line.strip_prefix(delimiter.as_slice()) {
            encoding = Encoding::Raw;
            head = behind.trim_ascii().is_empty().then(String::new);
        }
        out.extend_from_slice(&text_reference(secrets, encoding, line));
    }
    out
}

/// Looks at every unit of the text in turn: is this the beginning of one of the tokens?
fn text_reference(secrets: &[Sealed], encoding: Encoding, text: &[u8]) -> Vec<u8> {
    let units = units(encoding, text);
    let mut out = Vec::new();
    let mut at = 0;
    while at < units.len() {
        let secret = secrets.iter().find(|(token, _)| {
            let whole = units.get(at..at + token.as_str().len());
            whole.is_some_and(|units| {
                units.iter().map(|(_, byte)| *byte).eq(token.as_str().bytes().map(Some))
            })
        });
        match secret {
            Some((token, value)) => {
                let end = at + token.as_str().len();
                match value {
                    Some(value) => out.extend_from_slice(&written(encoding, value)),
                    None => units[at..end].iter().for_each(|(unit, _)| out.extend_from_slice(unit)),
                }
                at = end;
            }
            None => {
                out.extend_from_slice(units[at].0);
                at += 1;
            }
        }
    }
    out
}

fn written(encoding: Encoding, value: &str) -> Vec<u8> {
    match encoding {
        Encoding::Raw => value.into(),
        Encoding::Json => {
            let quoted = serde_json::to_string(value).unwrap();
            quoted.as_bytes()[1..quoted.len() - 1].into()
        }
        Encoding::Percent => value
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect::<String>()
            .into(),
    }
}

/// Each unit of a text: the bytes as written, and the byte meant, if it is one that a token may hold.
fn units(encoding: Encoding, mut text: &[u8]) -> Vec<(&[u8], Option<u8>)> {
    let hex = |digits: &[u8]| {
        let digits = str::from_utf8(digits).ok()?;
        let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        all.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let mut units = Vec::new();
    while let [first, rest @ ..] = text {
        let (length, byte) = match (encoding, first, rest) {
            (Encoding::Percent, b'%', [a, b, ..]) if hex(&[*a, *b]).is_some() => {
                (3, hex(&[*a, *b]).and_then(|byte| u8::try_from(byte).ok()))
            }
            (Encoding::Json, b'\\', [b'u', a, b, c, d, ..]) if hex(&[*a, *b, *c, *d]).is_some() => {
                (6, hex(&[*a, *b, *c, *d]).and_then(|byte| u8::try_from(byte).ok()))
            }
            (Encoding::Json, b'\\', [_, ..]) => (2, None),
            _ => (1, Some(*first)),
        };
        let (unit, rest) = text.split_at(length);
        units.push((unit, byte));
        text = rest;
    }
    units
}

/// A piece of text that makes trouble: tokens, their beginnings, escaped or not, and broken escapes.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec!["FIRST", "SECOND", "SHAPED", "STRANGER"]);
    let escape = prop::sample::select(vec!["%{:02x}", "%{:02X}", "\\u{:04x}", "\\u{:04X}"]);
    let escaped = |text: &str, how: &str, which: &[bool]| -> Vec<u8> {
        let one = |(byte, escape): (u8, &bool)| match (escape, how) {
            (false, _) => char::from(byte).to_string(),
            (true, "%{:02x}") => format!("%{byte:02x}"),
            (true, "%{:02X}") => format!("%{byte:02X}"),
            (true, "\\u{:04x}") => format!("\\u{byte:04x}"),
            (true, _) => format!("\\u{byte:04X}"),
        };
        text.bytes().zip(which).map(one).collect::<String>().into_bytes()
    };
    let whole = names.clone().prop_map(|name| token(name).as_str().as_bytes().to_vec());
    let hidden =
        (names, escape, prop::collection::vec(prop::bool::weighted(0.3), SealedToken::LEN))
            .prop_map(move |(name, how, which)| escaped(token(name).as_str(), how, &which));
    let begun = (hidden.clone(), 0..60usize).prop_map(|(mut text, length)| {
        text.truncate(length);
        text
    });
    let broken =
        prop::sample::select(vec!["\\", "\\\\", "\\u", "\\u00", "%", "%%", "%6", "osb_", "\\n"]);
    prop_oneof![
        3 => whole,
        3 => hidden,
        2 => begun,
        2 => broken.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(fragment(), 0..8).prop_map(|fragments| fragments.concat())
}

/// What stands around the parts of a multipart body, and what looks like it.
const AROUND: [&str; 12] = [
    "--BOUNDARY\r\nContent-Type: application/json\r\n\r\n",
    "\r\n--BOUNDARY\r\ncontent-type:application/a+json; x=y\r\nA: \\b\r\n\r\n",
    "\n--BOUNDARY  \nContent-Type: application/x-www-form-urlencoded\n\n",
    "\r\n--BOUNDARY\r\nContent-Disposition: form-data; name=\"%41\"\r\n\r\n",
    "\r\n--BOUNDARY\r\n\r\n",
    "\r\n--BOUNDARY\r\nContent-Type: application/x-ndjson\r\n",
    "\r\n\r\n",
    "\r\n--BOUNDARY--\r\n",
    "\r\n--BOUNDARYx\r\n",
    "\r\n--BOUNDAR",
    "--BOUNDARY\n",
    "\r\n--",
];

fn around(nth: usize) -> Vec<u8> {
    AROUND[nth % AROUND.len()].replace("BOUNDARY", BOUNDARY).replace("BOUNDAR", "--x").into_bytes()
}

fn body(kind: &Kind) -> BoxedStrategy<Vec<u8>> {
    match kind {
        Kind::Multipart(_) => prop::collection::vec((0..AROUND.len(), text()), 0..6)
            .prop_map(|parts| {
                let part = |(nth, text)| [around(nth), text].concat();
                parts.into_iter().map(part).collect::<Vec<_>>().concat()
            })
            .boxed(),
        Kind::Text(_) => text().boxed(),
        Kind::Grpc(_) => {
            let message = (prop::sample::select(vec![0, 0, 0, 1, 0x80]), text());
            let framed = message.prop_map(|(flag, mut message): (u8, Vec<u8>)| {
                // No field of protobuf begins so: the message is text, and only its own length changes.
                message.insert(0, b'?');
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                [vec![flag], length.to_vec(), message].concat()
            });
            let messages = prop::collection::vec(framed, 0..5);
            let rest = prop::collection::vec(any::<u8>(), 0..4);
            (messages, rest).prop_map(|(messages, rest)| [messages.concat(), rest].concat()).boxed()
        }
    }
}

/// Cuts a body at these places, taken round its length.
fn pieces<'b>(body: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    cuts.sort_unstable();
    let mut rest = body;
    let mut taken = 0;
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, behind) = rest.split_at(cut - taken);
        pieces.push(piece);
        (rest, taken) = (behind, cut);
    }
    pieces.push(rest);
    pieces
}

/// Secrets of any shape, of which some are opted in; values hold each other's tokens, their beginnings, and what needs escapes.
#[derive(Debug)]
struct RandomPolicy {
    all: Vec<SealedToken>,
    opted: Vec<(SealedToken, String)>,
    finder: Arc<TokenFinder>,
}

impl RandomPolicy {
    fn drawn(drawn: &[(usize, usize, bool)]) -> Self {
        const SHAPES: [Option<&str>; 4] =
            [None, Some("os_{sealed:20}"), Some("osb_{sealed:16}"), Some("{sealed:18}osb_")];
        let seal = |(nth, (shape, ..)): (usize, &(usize, usize, bool))| {
            let shape = SHAPES[*shape].map(|shape| shape.parse().unwrap());
            let (sandbox, name) = ("sb".parse().unwrap(), format!("K{nth}").parse().unwrap());
            SealKey::new(&[4; 32]).seal_as(shape.as_ref(), &sandbox, 0, &name)
        };
        let all: Vec<_> = drawn.iter().enumerate().map(seal).collect();
        let half = |text: &str| {
            let (front, back) = text.split_at(text.len() / 2);
            (front.to_owned(), back.to_owned())
        };
        let value = |nth: usize, kind: usize| {
            let other = all[(nth + 1) % all.len()].as_str();
            match kind {
                0 => other.to_owned(),
                1 => half(other).0,
                2 => format!("\"\\\n%{other}"),
                3 => "v".to_owned(),
                4 => half(other).1,
                _ => format!("é&={other}osb_sealed_"),
            }
        };
        let opted = drawn.iter().enumerate().filter(|(_, (.., opted))| *opted);
        let opted = opted.map(|(nth, (_, kind, _))| (all[nth].clone(), value(nth, *kind)));
        let (opted, finder) = (opted.collect(), TokenFinder::new(&all).unwrap());
        Self { all, opted, finder: Arc::new(finder) }
    }

    /// Every token, with its value where it is opted in.
    fn sealed(&self) -> Vec<Sealed> {
        let value = |token: &SealedToken| {
            let opted = self.opted.iter().find(|(opted, _)| opted == token);
            opted.map(|(_, value)| value.clone())
        };
        self.all.iter().map(|token| (token.clone(), value(token))).collect()
    }

    fn body(&self, kind: &Kind, drawn: &[(usize, usize, u64)]) -> Vec<u8> {
        let mut text = Vec::new();
        for (nth, how, bits) in drawn {
            if let Kind::Multipart(_) = kind {
                text.extend(around(usize::try_from(bits >> 40).unwrap()));
            }
            let token = self.all[nth % self.all.len()].as_str();
            let cut = usize::try_from(bits % token.len() as u64).unwrap();
            let hidden = |escape: fn(u8) -> String| -> String {
                let one = |(nth, byte): (usize, u8)| {
                    if bits >> (nth % 64) & 1 == 1 { escape(byte) } else { char::from(byte).into() }
                };
                token.bytes().enumerate().map(one).collect()
            };
            let piece = match how {
                0 | 1 => token.to_owned(),
                2 => token.split_at(cut).0.to_owned(),
                3 => token.split_at(cut).1.to_owned(),
                4 => hidden(|byte| format!("%{byte:02x}")),
                5 => hidden(|byte| format!("\\u{byte:04X}")),
                6 => "\\".to_owned(),
                _ => format!("osb_sealed_{:016x}{bits:016x}", bits.rotate_left(7)),
            };
            text.extend_from_slice(piece.as_bytes());
        }
        if let Kind::Grpc(_) = kind {
            text.insert(0, b'?');
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            text.splice(0..0, [0].into_iter().chain(length));
        }
        text
    }
}

proptest! {
    #[test]
    fn any_pieces_give_what_the_reference_gives(
        (kind, body) in prop::sample::select(kinds().to_vec()).prop_flat_map(|kind| { let body = body(&kind); (Just(kind), body) }),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let expected = reference(&kind, &body);
        let (streamed, _) = rewritten(&kind, pieces(&body, &cuts).into_iter());
        prop_assert_eq!(shown(&streamed), shown(&expected));
        let (bytewise, _) = rewritten(&kind, body.chunks(1));
        prop_assert_eq!(shown(&bytewise), shown(&expected));
    }

    #[test]
    fn any_policy_in_any_pieces_gives_what_the_reference_gives(
        kind in prop::sample::select(kinds().to_vec()),
        drawn in prop::collection::vec((0..4usize, 0..6usize, any::<bool>()), 1..6),
        text in prop::collection::vec((0..6usize, 0..8usize, any::<u64>()), 0..10),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let policy = RandomPolicy::drawn(&drawn);
        let body = policy.body(&kind, &text);
        let expected = reference_of(&policy.sealed(), &kind, &body);
        let rewriter = || rewriter_of(policy.finder.clone(), &policy.opted, &kind);
        let (streamed, _) = rewritten_by(rewriter(), pieces(&body, &cuts).into_iter());
        prop_assert_eq!(shown(&streamed), shown(&expected));
        let (bytewise, _) = rewritten_by(rewriter(), body.chunks(1));
        prop_assert_eq!(shown(&bytewise), shown(&expected));
    }

    #[test]
    fn what_is_opened_in_a_body_and_sent_back_is_sealed_again(
        encoding in prop::sample::select(vec![Encoding::Raw, Encoding::Percent, Encoding::Json]),
        values in prop::collection::vec("[A-Za-z0-9\"\\\\%&<>é/+=' ]{14,30}", 1..4),
        text in prop::collection::vec(("[a-c ,\n]{0,5}", any::<prop::sample::Index>()), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let name = |nth: usize| format!("K{nth}");
        let secrets: Vec<_> = values
            .into_iter()
            .enumerate()
            .map(|(nth, value)| (derived(&name(nth)), value))
            .collect();
        let tokens: Vec<_> = secrets.iter().map(|(token, _)| token.clone()).collect();
        let body: String = text
            .iter()
            .map(|(between, which)| format!("{between}{}", which.get(&tokens).as_str()))
            .collect();
        let finder = Arc::new(TokenFinder::new(&tokens).unwrap());
        let rewriter = rewriter_of(finder, &secrets, &Kind::Text(encoding));
        let (opened, _) = rewritten_by(rewriter, pieces(body.as_bytes(), &cuts).into_iter());
        let value = |value: String| Arc::new(SecretValue::new(value.into_bytes()).unwrap());
        let searched: Vec<_> =
            secrets.into_iter().map(|(token, text)| (token, value(text))).collect();
        let mut sealed = Vec::new();
        Needles::new(&searched).hide(&opened, opened.len(), Hide::Replace, &mut sealed);
        prop_assert_eq!(shown(&sealed), shown(body.as_bytes()));
    }

    #[test]
    fn what_is_held_back_is_shorter_than_one_token_with_its_escapes(
        encoding in prop::sample::select(vec![Encoding::Raw, Encoding::Percent, Encoding::Json]),
        body in text(),
    ) {
        let mut text = rewriter(&Kind::Text(encoding));
        let mut out = Vec::new();
        let mut pushed = 0;
        for piece in body.chunks(7) {
            text.push(piece, &mut out).unwrap();
            pushed += piece.len();
            let expected = reference(&Kind::Text(encoding), &body[..pushed]);
            prop_assert!(expected.len() - out.len() < SealedToken::LEN * 6);
            prop_assert!(expected.starts_with(&out));
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn every_split_of_a_body_gives_what_the_whole_gives() {
    let (first, stranger) = (token("FIRST"), token("STRANGER"));
    let hidden = first.as_str().replacen("osb", "\\u006fs\\u0062", 1);
    let text = format!("[\"{hidden}\\\\u006f{}{}osb_seal\"]", first.as_str(), stranger.as_str());
    let parts = Kind::Multipart(BOUNDARY.as_bytes().into());
    for kind in [Kind::Text(Encoding::Json), Kind::Grpc(Encoding::Json), parts] {
        let body = match kind {
            Kind::Text(_) => text.clone().into_bytes(),
            Kind::Multipart(_) => [around(0), text.clone().into_bytes(), around(7)].concat(),
            Kind::Grpc(_) => {
                [&[0, 0, 0, 0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
            }
        };
        let expected = reference(&kind, &body);
        for one in 0..=body.len() {
            for two in one..=body.len() {
                let pieces = [&body[..one], &body[one..two], &body[two..]];
                let (out, tally) = rewritten(&kind, pieces.into_iter());
                assert_eq!(shown(&out), shown(&expected), "{kind:?} split at {one} and {two}");
                assert_eq!((tally.opened.len(), tally.passed), (1, 1), "{kind:?} {one} {two}");
            }
        }
    }
}

#[test]
fn a_value_without_a_form_in_the_body_ends_it() {
    let mut values = Values::default();
    let name: crate::secret::SecretName = "BINARY".parse().unwrap();
    values.add(&token("BINARY"), name.clone(), b"\xff\xfe", &Kind::Text(Encoding::Json));
    let rewriter =
        Rewriter::new(Arc::default(), Arc::new(values), &Kind::Text(Encoding::Json), MOST);
    assert_eq!(rewriter.whole(token("BINARY").as_str().as_bytes()).unwrap_err(), Unfit::Form(name));
}

/// What this thread has run for: other tests of the machine do not count. The kernel counts in ticks, so that little is nothing.
fn ran() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn near_misses_take_a_time_that_grows_with_their_number_and_no_faster() {
    let near = token("FIRST").as_str().replacen("osb", "\\u006fsb", 1);
    let (near, _) = near.split_at(near.len() - 1);
    for kind in kinds() {
        for miss in [near, "osb_sealed_", "\\", "\\u006", "%", "%6", "o"] {
            let cost = |times: usize| {
                let body = miss.repeat(times);
                let once = |_| {
                    let before = ran();
                    let (out, _) = rewritten(&kind, body.as_bytes().chunks(8192));
                    assert_eq!(out.len(), body.len());
                    ran() - before
                };
                (0..3).map(once).min().unwrap()
            };
            let (few, many) = (cost(4_000), cost(16_000));
            assert!(many < 10 * few.max(20_000_000), "{kind:?} {miss}: {few} ns, {many} ns");
        }
    }
}
