//! What it costs to rewrite a request's head: no token, a bearer token, and a token inside `Authorization: Basic`.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tollgate::host::{Authority, Scheme};
use tollgate::policy::{OperatorRules, PolicySet, RequestPermit, decide_request};
use tollgate::proxy::open_head;
use tollgate::secret::SealKey;
use tollgate::session::Session;
use tollgate::shutdown::Tasks;
use tollgate::stores::{LiveSecret, TokenEndpoints};

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
    let (session, permit) = session();
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

fn session() -> (Session, RequestPermit) {
    let set = PolicySet::read(Path::new("bench.yaml"), POLICY).set.expect("a policy");
    let layers = ["s".parse().expect("a name")];
    let policy = set.effective(&layers, &OperatorRules::default()).expect("an effective policy");
    let policy = Arc::new(policy);
    let destination =
        Authority::parse("api.example.com").expect("a host").destination(Scheme::Https);
    let verdict = decide_request(&policy, &destination, Scheme::Https, &Method::GET, "/");
    let permit = verdict.permit().expect("allowed");
    let (_trigger, tasks) = Tasks::new();
    let live = |store: &_, name: &tollgate::secret::SecretName| {
        let secret = set.secret(store, name)?;
        Some(LiveSecret::new(
            name.clone(),
            secret.source.clone(),
            true,
            &TokenEndpoints::default(),
            tasks.clone(),
        ))
    };
    let id = "sb".parse().expect("an id");
    let session = Session::new(id, 0, policy, &SealKey::new(&[1; 32]), live, Vec::new());
    (session.expect("a session"), permit)
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
