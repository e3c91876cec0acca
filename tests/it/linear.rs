//! Hostile near misses cost what any other bytes cost: four times as many take about four times as long, not sixteen.

use std::sync::Arc;

use http::Request;
use tollgate::secret::{Hide, Needles, SealKey, SealedToken, SecretValue, TokenFinder};

use crate::support::{Protocol, Tollgate, Upstream, full};

fn token(shape: Option<&str>) -> SealedToken {
    let shape = shape.map(|shape| shape.parse().unwrap());
    let (sandbox, name) = ("sb".parse().unwrap(), "KEY".parse().unwrap());
    SealKey::new(&[5; 32]).seal_as(shape.as_ref(), &sandbox, 0, &name)
}

/// Nanoseconds that this thread has run: other tests of the machine do not count. The kernel counts in ticks, so that little is nothing.
fn ran() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// How long it takes, at best.
fn cost(mut work: impl FnMut()) -> u64 {
    let once = |_| {
        let before = ran();
        work();
        ran() - before
    };
    (0..3).map(once).min().unwrap()
}

fn assert_linear(what: &str, near_miss: &str, look: impl Fn(&[u8])) {
    const TIMES: usize = 16 * 1024;
    let few = near_miss.repeat(TIMES);
    let many = near_miss.repeat(4 * TIMES);
    let (few, many) = (cost(|| look(few.as_bytes())), cost(|| look(many.as_bytes())));
    assert!(
        many < 10 * few.max(20_000_000),
        "{what}: {few} ns, and {many} ns for four times as much"
    );
}

#[test]
fn near_misses_of_tokens() {
    let shaped = token(Some("ghp_{sealed:36}"));
    let standard = token(None);
    let finder = TokenFinder::new(&[shaped.clone(), standard.clone()]).unwrap();
    let misses = [
        "osb_sealed_".to_owned(),
        format!("{}g", &standard.as_str()[..42]),
        standard.as_str().to_ascii_uppercase(),
        shaped.as_str()[..shaped.as_str().len() - 1].to_owned(),
        "ghp_".to_owned(),
        "o".to_owned(),
    ];
    for near_miss in &misses {
        assert_linear(near_miss, near_miss, |text| {
            assert!(finder.find(text).next().is_none());
            assert!(finder.undecided(text) <= text.len());
        });
    }
    // All of them found, too.
    assert_linear("whole tokens", standard.as_str(), |text| {
        assert_eq!(finder.find(text).count(), text.len() / standard.as_str().len());
    });
}

#[test]
fn near_misses_of_values() {
    let values =
        ["sk-live-0123456789abcdef", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "abababababababab"];
    let value = |value: &str| Arc::new(SecretValue::new(value.into()).unwrap());
    let sealed: Vec<_> = values.iter().map(|text| (token(None), value(text))).collect();
    let needles = Needles::new(&sealed);
    for near_miss in
        [&values[0][..23], "a", "aaaaaaaab", "ab ", "736b2d6c6976652d", "%61", "\\u0061"]
    {
        assert_linear(near_miss, near_miss, |text| {
            let mut out = Vec::new();
            needles.hide(text, text.len(), Hide::Replace, &mut out);
            assert!(needles.undecided(text) <= text.len());
        });
    }
}

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [api.example.com], locations: [header, query, path, body], placeholder: "ghp_{sealed:36}" }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

#[tokio::test]
async fn sixty_four_ki_near_misses_pass_in_a_body_and_what_fits_in_a_head() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY");
    let near_miss = format!("{}osb_sealed_", &token[..token.len() - 1]);
    let body = near_miss.repeat(64 * 1024);
    for (protocol, kind) in [(Protocol::H1, "application/json"), (Protocol::H2, "text/plain")] {
        let request = Request::post("https://api.example.com/")
            .header("content-type", kind)
            .header("x-near", near_miss.repeat(250))
            .body(full(body.clone()));
        let answer = sandbox.send_over(protocol, request.unwrap()).await;
        assert_eq!(answer.text(), "fine");
        assert!(upstream.requests().pop().unwrap().body == body);
    }
    let url = format!("https://api.example.com/{0}?{0}", near_miss.repeat(100));
    assert_eq!(sandbox.get(&url).await.text(), "fine");
    tollgate.finish().await;
}

/// A token is short and its value may be long: what many of them would write is refused, not held.
#[tokio::test]
async fn a_request_made_of_tokens_does_not_grow_without_bound() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let long: String = (0..1000).map(|nth| format!("v{nth:05}")).collect();
    let tollgate = Tollgate::with(&POLICY.replace("$KEY", &long), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY");
    let post = || Request::post("https://api.example.com/");
    let streamed_tokens = token.repeat(20_000).into_bytes();
    let streamed = futures_util::stream::iter([hyper::body::Frame::data(streamed_tokens.into())]);
    for request in [
        post().header("x-many", token.repeat(50)).body(full("")),
        (0..60).fold(post(), |post, nth| post.header(format!("x-{nth}"), token)).body(full("")),
        Request::get(format!("https://api.example.com/?{}", token.repeat(50))).body(full("")),
        post().body(full(token.repeat(20_000))),
    ] {
        let answer = sandbox.send(request.unwrap()).await;
        assert_eq!((answer.status, answer.reason()), (413, "limit_exceeded"), "{answer:?}");
    }
    let cut = sandbox.send(post().body(crate::support::streamed(streamed)).unwrap()).await;
    assert_ne!(cut.status, 200, "{cut:?}");
    assert!(upstream.requests().is_empty());
    // A few of them are fine.
    let request = post().header("x-few", token.repeat(2)).body(full(token.repeat(10))).unwrap();
    assert_eq!(sandbox.send(request).await.text(), "fine");
    assert!(upstream.request().body == long.repeat(10));
    tollgate.finish().await;
}
