//! What a client's TLS costs before the handshake: minting a leaf, finding a minted one, finding a configuration.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tollgate::host::Host;
use tollgate::proxy::tls::ca::CertificateAuthority;
use tollgate::proxy::tls::leaf::{LeafConfigs, LeafMint};
use tollgate::secret::SandboxId;

fn leaf(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ca = CertificateAuthority::create(dir.path()).expect("an authority");
    let mint = Arc::new(LeafMint::new(Arc::new(ca), 64).expect("a mint"));
    let hosts: Vec<Host> = (0..10_000)
        .map(|n| Host::parse(&format!("host-{n}.example.com")).expect("a host"))
        .collect();

    // Far more hosts than the cache holds, so that each call mints.
    let mut next = hosts.iter().cycle();
    c.bench_function("leaf/mint", |b| {
        b.iter(|| next.next().map(|host| mint.leaf(black_box(host))));
    });

    let host = Host::parse("api.example.com").expect("a host");
    c.bench_function("leaf/cached", |b| b.iter(|| mint.leaf(black_box(&host))));

    let configs = LeafConfigs::new(mint, 64).expect("configurations");
    let sandbox: SandboxId = "sb-1".parse().expect("an id");
    c.bench_function("leaf/config_cached", |b| {
        b.iter(|| configs.for_sandbox_host(black_box(&sandbox), black_box(&host)));
    });
}

criterion_group!(benches, leaf);
criterion_main!(benches);
