//! What a decision costs, by the size of the policy: it must not grow.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::Method;
use tollgate::host::{Authority, Destination, Scheme};
use tollgate::policy::{EffectivePolicy, OperatorRules, PolicySet, decide_connect, decide_request};

fn decide(c: &mut Criterion) {
    for entries in [1, 100, 10_000] {
        let policy = policy(entries);
        for (what, host) in [("allow", "api.last.example.org"), ("deny", "a.b.c.d.unlisted.test")] {
            let destination = destination(host);
            c.bench_function(&format!("decide/connect/{what}/{entries}"), |b| {
                b.iter(|| decide_connect(black_box(&policy), black_box(&destination)));
            });
            c.bench_function(&format!("decide/request/{what}/{entries}"), |b| {
                b.iter(|| {
                    let path = black_box("/v1/messages");
                    decide_request(&policy, &destination, Scheme::Https, &Method::POST, path)
                });
            });
        }
    }
}

fn policy(entries: usize) -> Arc<EffectivePolicy> {
    let mut text = String::from("secretStores:\n  s:\n    egressAllowlist:\n");
    for nth in 0..entries {
        writeln!(text, "      - host-{nth}.example.com").expect("a line");
    }
    text.push_str("      - api.last.example.org\n");
    text.push_str(
        "    secrets:\n      KEY: { from: { env: KEY }, allowedHosts: [api.last.example.org] }\n",
    );
    text.push_str("sandboxes:\n  sb: { secretStores: [s] }\n");
    let set = PolicySet::read(Path::new("bench.yaml"), &text).set.expect("a policy");
    let layers = ["s".parse().expect("a name")];
    Arc::new(set.effective(&layers, &OperatorRules::default()).expect("an effective policy"))
}

fn destination(host: &str) -> Destination {
    Authority::parse(host).expect("a host").destination(Scheme::Https)
}

criterion_group!(benches, decide);
criterion_main!(benches);
