//! What a stream holds back tells nothing of how much of a guess is right: compared by the bytes that have arrived before the next are written.

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;

use crate::support::{Protocol, SOON, Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
const URL: &str = "https://api.example.com/";

/// How long nothing more must come before it is taken to be held back.
const QUIET: Duration = Duration::from_millis(200);

type Form = fn(&str) -> String;

const FORMS: [(&str, Form); 9] = [
    ("raw", |value| value.to_owned()),
    ("hex", |value| value.bytes().map(|byte| format!("{byte:02x}")).collect()),
    ("HEX", |value| value.bytes().map(|byte| format!("{byte:02X}")).collect()),
    ("percent", |value| value.bytes().map(|byte| format!("%{byte:02X}")).collect()),
    ("json", |value| value.bytes().map(|byte| format!("\\u{byte:04x}")).collect()),
    ("base64", |value| STANDARD.encode(value)),
    ("base64, one byte before", |value| STANDARD.encode(format!("-{value}"))),
    ("base64, two bytes before", |value| STANDARD.encode(format!("--{value}"))),
    ("base64url", |value| URL_SAFE.encode(value)),
];

/// A stream whose pieces are given one by one.
struct Streamed {
    pieces: mpsc::Sender<Bytes>,
    answer: Incoming,
}

impl Streamed {
    async fn write(&self, piece: &str) {
        self.pieces.send(Bytes::from(piece.to_owned())).await.unwrap();
    }

    /// How many bytes come until nothing does.
    async fn arrived(&mut self) -> usize {
        let mut arrived = 0;
        while let Ok(frame) = tokio::time::timeout(QUIET, self.answer.frame()).await {
            arrived += frame.unwrap().unwrap().into_data().unwrap().len();
        }
        arrived
    }

    async fn read(&mut self, mut length: usize) {
        while length > 0 {
            let frame = tokio::time::timeout(SOON, self.answer.frame()).await.unwrap();
            length -= frame.unwrap().unwrap().into_data().unwrap().len();
        }
    }

    /// How much of a guess has arrived before the line ends.
    async fn before_the_end(&mut self, guess: &str) -> usize {
        self.write(guess).await;
        let before = self.arrived().await;
        self.write("\n").await;
        self.read(guess.len() + 1 - before).await;
        before
    }
}

/// The same bytes but for the last, or but for all; each stays what it is: a letter, a digit, something else.
fn wrong(right: &str, from: usize) -> String {
    let other = |(nth, c): (usize, char)| match c {
        _ if nth < from => c,
        '0'..='8' | 'a'..='y' | 'A'..='Y' => char::from(c as u8 + 1),
        '9' => '0',
        'z' => 'a',
        'Z' => 'A',
        other => other,
    };
    right.chars().enumerate().map(other).collect()
}

async fn assert_that_nothing_is_told(name: &str, form: Form, protocol: Protocol) {
    let (pieces, given) = mpsc::channel::<Bytes>(1);
    let given = Mutex::new(Some(given));
    let upstream = Upstream::https("api.example.com").handler(move |_| {
        let given = given.lock().unwrap().take().unwrap();
        let given = futures_util::stream::unfold(given, |mut given| async move {
            given.recv().await.map(|piece| (Ok(Frame::data(piece)), given))
        });
        let answer = Response::new(BodyExt::boxed(StreamBody::new(given)));
        async move { answer }
    });
    let upstream = upstream.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open(URL, protocol).await.unwrap();
    let request = Request::get(URL).header("x-key", sandbox.token("KEY")).body(full(""));
    let answer = connection.begin(request.unwrap()).await.unwrap().into_body();
    let mut streamed = Streamed { pieces, answer };
    let form = form(&tollgate.value("KEY"));
    for length in [1, form.len() / 2, form.len() - 5] {
        let right = &form[..length];
        let told = [
            streamed.before_the_end(right).await,
            streamed.before_the_end(&wrong(right, length - 1)).await,
            streamed.before_the_end(&wrong(right, 0)).await,
        ];
        assert!(told.iter().all(|one| *one == told[0]), "{name}, {length} bytes: {told:?}");
    }
    drop((streamed, connection));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_right_guess_waits_as_long_as_a_wrong_one_in_every_form() {
    let h1 = FORMS.map(|(name, form)| assert_that_nothing_is_told(name, form, Protocol::H1));
    futures_util::future::join_all(h1).await;
    let h2 = [FORMS[0], FORMS[5]]
        .map(|(name, form)| assert_that_nothing_is_told(name, form, Protocol::H2));
    futures_util::future::join_all(h2).await;
}
