//! What it costs to rewrite a request's head: no token, a bearer token, and a token inside `Authorization: Basic`.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

#[expect(dead_code, reason = "other benches use the rest")]
mod setup;

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use tollgate::proxy::open_head;

const POLICY: &str = "
secretStores:
  s:
    egressAllowlist: [api.example.com]
    secrets:
      KEY: { from: { value: a-value-of-forty-characters-0123456789abc }, allowedHosts: [api.example.com] }
sandboxes:
  sb: { secretStores: [s] }
";

fn head(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let (session, permit) = setup::session(POLICY);
    let secret = session.secrets().first().expect("a secret");
    runtime.block_on(secret.live.value()).expect("a value");
    let token = secret.token.as_str().to_owned();
    let basic = STANDARD.encode(format!("x-access-token:{token}"));
    for (what, authorization) in [
        ("none", "Bearer nothing-to-open-here".to_owned()),
        ("bearer", format!("Bearer {token}")),
        ("basic", format!("Basic {basic}")),
    ] {
        let headers = headers(&authorization);
        c.bench_function(&format!("head/{what}"), |b| {
            b.iter_batched(
                || headers.clone(),
                |mut headers| {
                    let opened = open_head(&session, &permit, black_box(&mut headers));
                    runtime.block_on(opened).expect("opened");
                    headers
                },
                BatchSize::SmallInput,
            );
        });
    }
}

fn headers(authorization: &str) -> HeaderMap {
    let fields = [
        ("host", "api.example.com"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("x-request-id", "0123456789abcdef"),
        ("authorization", authorization),
        ("cookie", "a=b; c=d"),
        ("content-length", "64"),
    ];
    let field = |(name, value): (&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    fields.into_iter().map(field).collect()
}

criterion_group!(benches, head);
criterion_main!(benches);
