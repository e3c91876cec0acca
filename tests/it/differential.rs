//! Random requests, with and without the proxy: one in which nothing is substituted arrives as it was sent, hop-by-hop fields aside.
//!
//! `TOLLGATE_SEED` repeats a run; every failure names its seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Protocol, Stream, Tollgate, Upstream, eventually, read_answer};

const PLAIN: &str = "plain.example.com";
const BOUND: &str = "bound.example.com";
const OPTED: &str = "opted.example.com";

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [plain.example.com, bound.example.com, opted.example.com]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [bound.example.com] }
      ALL: { from: { value: $ALL }, allowedHosts: [opted.example.com], locations: [header, query, path, body] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

/// How many requests each host gets.
const REQUESTS: usize = 250;

/// splitmix64: enough to draw with, and the same everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, most: usize, legal: impl Fn(u8) -> bool) -> Vec<u8> {
        let length = self.below(most + 1);
        let legal: Vec<u8> = (0..=255).filter(|&byte| legal(byte)).collect();
        (0..length).map(|_| legal[self.below(legal.len())]).collect()
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 3986 §3.3 and §3.4, without the percent sign.
fn is_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte)
}

fn method(draw: &mut Draw) -> String {
    let own = ["PROPFIND", "M-SEARCH", "X", "purge", "ReBiND"];
    match draw.below(4) {
        0 => draw.one(&own).to_owned(),
        _ => draw.one(&["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]).to_owned(),
    }
}

fn target(draw: &mut Draw) -> Vec<u8> {
    let mut target = b"/".to_vec();
    for _ in 0..draw.below(6) {
        let odd = [
            "//",
            "/./",
            "/../",
            "?",
            "??",
            "&&=",
            "%2F",
            "%2f",
            "%00",
            "%zz",
            "%",
            "%25",
            "+",
            "%E2%82%AC",
            ";a=b",
            "osb_sealed_",
            "osb_sealed_00",
        ];
        if draw.chance(2) {
            target.extend_from_slice(draw.one(&odd).as_bytes());
        }
        target.extend(draw.bytes(12, is_target));
    }
    target
}

fn fields(draw: &mut Draw) -> Vec<(String, Vec<u8>)> {
    let usual = [
        "Accept",
        "accept-language",
        "USER-AGENT",
        "Cookie",
        "cookie",
        "X-Twice",
        "x-twice",
        "X-TWICE",
        "If-None-Match",
        "Referer",
        "Origin",
        "Authorization",
        "Via",
        "Forwarded",
        "x-amz-date",
        "Pragma",
        "Cache-Control",
        "DNT",
        "From",
    ];
    let mut fields = Vec::new();
    for _ in 0..draw.below(10) {
        let name = match draw.below(5) {
            0 => {
                let odd = draw.bytes(8, is_token);
                format!("x{}", String::from_utf8(odd).unwrap())
            }
            _ => draw.one(&usual).to_owned(),
        };
        let legal = |byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t';
        fields.push((name, draw.bytes(30, legal).trim_ascii().to_vec()));
    }
    if draw.chance(4) {
        fields.push((draw.one(&["Range", "range"]).to_owned(), b"bytes=0-9".to_vec()));
        fields.push(("If-Range".to_owned(), b"\"x\"".to_vec()));
    }
    if draw.chance(3) {
        let codings = draw.one(&["gzip", "gzip;q=0.5, br", "identity", "x-odd, zstd", "*"]);
        fields.push(("Accept-Encoding".to_owned(), codings.into()));
    }
    if draw.chance(4) {
        fields.push(("Connection".to_owned(), b"X-Private, keep-alive".to_vec()));
        fields.push(("X-Private".to_owned(), b"1".to_vec()));
        fields.push(("Keep-Alive".to_owned(), b"timeout=5".to_vec()));
    }
    fields
}

/// What stands for the fields of the body, and the body as written.
fn body(draw: &mut Draw) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
    let kinds = [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/grpc",
        "multipart/form-data; boundary=x",
        "application/x-ndjson",
    ];
    let kind = ("Content-Type".to_owned(), draw.one(&kinds).into());
    let mut content = draw.bytes(2000, |_| true);
    if draw.chance(2) {
        let near = [
            "osb_sealed_0123456789abcdef0123456789abcde",
            "osb_sealed_",
            "\\u006fsb_",
            "%6fsb_sealed_",
            "\\",
            "%",
            "--x\r\nContent-Type: application/json\r\n\r\n",
            "\r\n--x\n\n",
            "\r\n--",
        ];
        (0..6).for_each(|_| content.extend_from_slice(draw.one(&near).as_bytes()));
    }
    match draw.below(4) {
        0 => (Vec::new(), Vec::new()),
        1 => {
            let length = ("Content-Length".to_owned(), content.len().to_string().into());
            (vec![kind, length], content)
        }
        2 => (vec![("content-length".to_owned(), b"0".to_vec())], Vec::new()),
        _ => {
            let trailer = draw.chance(2).then(|| draw.bytes(20, |byte| byte.is_ascii_graphic()));
            let mut fields = vec![kind, ("Transfer-Encoding".to_owned(), b"chunked".to_vec())];
            if trailer.is_some() {
                fields.push(("Trailer".to_owned(), b"X-Check".to_vec()));
            }
            (fields, chunked(draw, &content, trailer.as_deref()))
        }
    }
}

/// Without extensions: those are refused (RFC 9112 §7.1.1 lets nobody rely on them), and two parsers could read them in two ways.
fn chunked(draw: &mut Draw, mut content: &[u8], trailer: Option<&[u8]>) -> Vec<u8> {
    let mut written = Vec::new();
    while !content.is_empty() {
        let (piece, rest) = content.split_at(1 + draw.below(content.len()));
        let size = if draw.chance(2) {
            format!("{:X}", piece.len())
        } else {
            format!("{:03x}", piece.len())
        };
        written.extend_from_slice(format!("{size}\r\n").as_bytes());
        written.extend_from_slice(piece);
        written.extend_from_slice(b"\r\n");
        content = rest;
    }
    written.extend_from_slice(b"0\r\n");
    if let Some(trailer) = trailer {
        written.extend_from_slice(b"X-Check: ");
        written.extend_from_slice(trailer);
        written.extend_from_slice(b"\r\n");
    }
    written.extend_from_slice(b"\r\n");
    written
}

fn request(draw: &mut Draw, host: &str) -> Vec<u8> {
    let (method, target) = (method(draw), target(draw));
    let (mut fields, (of_body, body)) = (fields(draw), body(draw));
    fields.insert(draw.below(fields.len() + 1), ("Host".to_owned(), host.into()));
    for field in of_body {
        fields.insert(draw.below(fields.len() + 1), field);
    }
    let mut written = format!("{method} ").into_bytes();
    written.extend_from_slice(&target);
    written.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in fields {
        written.extend_from_slice(format!("{name}:{}", draw.one(&[" ", "", "  "])).as_bytes());
        written.extend_from_slice(&value);
        written.extend_from_slice(b"\r\n");
    }
    written.extend_from_slice(b"\r\n");
    written.extend_from_slice(&body);
    written
}

/// A request as an upstream reads it.
#[derive(Debug)]
struct Read {
    line: String,
    /// In the order in which names first occur, and for each name in its own order.
    fields: Vec<(String, Vec<String>)>,
    chunked: bool,
    body: String,
    trailers: String,
}

/// The first request in the bytes, and how long it is; none while it is not whole.
fn read(bytes: &[u8]) -> Option<(Read, usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let mut lines = bytes[..end]
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = shown(lines.next()?);
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    let mut known = BTreeMap::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':').unwrap();
        let (name, value) = (shown(&line[..colon]), shown(line[colon + 1..].trim_ascii()));
        let at = *known.entry(name.to_ascii_lowercase()).or_insert_with(|| {
            fields.push((name.to_ascii_lowercase(), Vec::new()));
            fields.len() - 1
        });
        fields[at].1.push(format!("{name}: {value}"));
    }
    let has =
        |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, all)| all[0].clone());
    let chunked = has("transfer-encoding").is_some();
    let length =
        has("content-length").map_or(0, |line| line.split_once(": ").unwrap().1.parse().unwrap());
    let (body, trailers, length) = if chunked {
        dechunked(&bytes[end + 4..])?
    } else {
        (bytes[end + 4..].get(..length)?.to_vec(), Vec::new(), length)
    };
    let (body, trailers) = (shown(&body), shown(&trailers));
    Some((Read { line, fields, chunked, body, trailers }, end + 4 + length))
}

fn dechunked(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = memchr::memmem::find(bytes.get(at..)?, b"\r\n")?;
        let digits: Vec<u8> =
            bytes[at..at + line].iter().copied().take_while(u8::is_ascii_hexdigit).collect();
        let size = usize::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap();
        at += line + 2;
        if size == 0 {
            if bytes[at..].starts_with(b"\r\n") {
                return Some((body, Vec::new(), at + 2));
            }
            let end = memchr::memmem::find(&bytes[at..], b"\r\n\r\n")?;
            return Some((body, bytes[at..at + end].to_vec(), at + end + 4));
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Read {
    /// Without what speaks of one connection, and what DESIGN.md excepts on a host with a bound secret.
    fn end_to_end(mut self, searched: bool) -> Self {
        let nominated = |name: &str| name == "x-private" || name.starts_with("proxy-");
        let hop = ["connection", "keep-alive", "te", "upgrade", "transfer-encoding"];
        let excepted: &[_] = if searched { &["accept-encoding", "range", "if-range"] } else { &[] };
        let aside = |name: &str| hop.contains(&name) || nominated(name) || excepted.contains(&name);
        self.fields.retain(|(name, _)| !aside(name));
        // Names are compared without case, and nothing promises the case of a trailer's.
        self.trailers.make_ascii_lowercase();
        if self.chunked {
            // Its name is of the hop; that there is one is of the message.
            self.fields.push(("transfer-encoding".to_owned(), Vec::new()));
        }
        self
    }
}

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// Reads whole requests, keeps their bytes, and answers each.
async fn keep<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut io: S, seen: Seen) {
    let mut waiting = Vec::new();
    loop {
        while let Some((_, length)) = read(&waiting) {
            let rest = waiting.split_off(length);
            seen.lock().unwrap().push(std::mem::replace(&mut waiting, rest));
            if io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                return;
            }
            drop(io.flush().await);
        }
        if io.read_buf(&mut waiting).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

fn keeping(host: &str, seen: &Seen) -> crate::support::Builder {
    let seen = seen.clone();
    Upstream::raw(host, move |io: Stream| keep(io, seen.clone()))
}

/// The same upstream without the proxy.
async fn direct(seen: Seen) -> TcpStream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (io, _) = listener.accept().await.unwrap();
    tokio::spawn(keep(io, seen));
    client
}

async fn compare(host: &str, searched: bool) {
    let seed = std::env::var("TOLLGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    let (through, straight) = (Seen::default(), Seen::default());
    let upstream = keeping(host, &through).await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut proxied = sandbox.tls(host, Protocol::H1).await;
    let mut direct = direct(straight.clone()).await;
    let mut draw = Draw(seed);
    for nth in 0..REQUESTS {
        let request = request(&mut draw, host);
        let mut what = format!("TOLLGATE_SEED={seed}, request {nth}: {}", shown(&request));
        what.truncate(1200);
        direct.write_all(&request).await.unwrap();
        let straight = eventually(&what, || straight.lock().unwrap().get(nth).cloned()).await;
        assert_eq!(straight, request, "{what}");
        proxied.write_all(&request).await.unwrap();
        proxied.flush().await.unwrap();
        let answer = read_answer(&mut proxied).await;
        assert_eq!(answer.status, 200, "{answer:?} {what}");
        let through = through.lock().unwrap().get(nth).cloned().expect(&what);
        let arrived = read(&through).unwrap().0.end_to_end(searched);
        let sent = read(&straight).unwrap().0.end_to_end(searched);
        assert_eq!(arrived.line, sent.line, "{what}");
        assert_eq!(arrived.fields, sent.fields, "{what}");
        assert_eq!(arrived.trailers, sent.trailers, "{what}");
        assert!(arrived.body == sent.body, "another body: {what}");
    }
    drop((proxied, direct));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_request_to_a_host_without_a_secret_arrives_as_it_was_sent() {
    compare(PLAIN, false).await;
}

#[tokio::test]
async fn a_request_to_a_host_with_a_secret_arrives_as_it_was_sent() {
    compare(BOUND, true).await;
}

#[tokio::test]
async fn a_request_whose_every_place_is_searched_arrives_as_it_was_sent() {
    compare(OPTED, true).await;
}
