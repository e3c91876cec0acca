//! What several benches set up: a session under a policy, values that look drawn at random, and what is searched for with them.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use http::Method;
use tollgate::host::{Authority, Scheme};
use tollgate::policy::{OperatorRules, PolicySet, RequestPermit, decide_request};
use tollgate::secret::{Needles, SealKey, SecretValue};
use tollgate::session::Session;
use tollgate::shutdown::Tasks;
use tollgate::stores::{LiveSecret, TokenEndpoints};

/// The sandbox `sb` of a policy, and its permit to send anything to `api.example.com`.
pub(crate) fn session(policy: &str) -> (Session, RequestPermit) {
    let set = PolicySet::read(Path::new("bench.yaml"), policy).set.expect("a policy");
    let layers = ["s".parse().expect("a name")];
    let policy = set.effective(&layers, &OperatorRules::default()).expect("an effective policy");
    let policy = Arc::new(policy);
    let destination =
        Authority::parse("api.example.com").expect("a host").destination(Scheme::Https);
    let verdict = decide_request(&policy, &destination, Scheme::Https, &Method::POST, "/");
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

/// A policy with so many secrets for `api.example.com`, which all open in bodies; their placeholders have this shape, if any.
pub(crate) fn policy(secrets: u64, shape: Option<&str>) -> String {
    let shape = shape.map(|shape| format!(", placeholder: \"{shape}\"")).unwrap_or_default();
    let secret = |nth| {
        let value = value(nth);
        format!(
            "      KEY_{nth}: {{ from: {{ value: {value:?} }}, allowedHosts: [api.example.com], locations: [body]{shape} }}\n"
        )
    };
    let secrets: String = (0..secrets).map(secret).collect();
    format!(
        "secretStores:\n  s:\n    egressAllowlist: [api.example.com]\n    secrets:\n{secrets}sandboxes:\n  sb: {{ secretStores: [s] }}\n"
    )
}

/// What answers to a sandbox with so many secrets are searched for.
pub(crate) fn needles(count: u64) -> Needles {
    let key = SealKey::new(&[1; 32]);
    let id = "sb".parse().expect("an id");
    let sealed = |nth: u64| {
        let token = key.seal(&id, 0, &format!("KEY_{nth}").parse().expect("a name"));
        (token, Arc::new(SecretValue::new(value(nth).into_bytes()).expect("a value")))
    };
    Needles::new(&(0..count).map(sealed).collect::<Vec<_>>())
}

/// Forty characters that look drawn at random.
pub(crate) fn value(nth: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u64| {
        let drawn = usize::try_from(mixed(nth * 40 + at) >> 58).expect("six bits");
        char::from(*LETTERS.get(drawn).expect("one of 64"))
    };
    (0..40).map(letter).collect()
}

/// The mixer of splitmix64.
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A text as a server sends it in a content coding.
pub(crate) fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let level = flate2::Compression::default();
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(text).expect("room");
            out.finish().expect("room")
        }
        "br" => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(text).expect("room");
            out
        }
        "zstd" => zstd::encode_all(text, 3).expect("room"),
        _ => text.to_vec(),
    }
}
