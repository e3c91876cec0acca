//! That the helpers themselves see what they should: an attack that works, and one that does not.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::cut::{self, End, Piece};
use crate::support::{Attack, Frames};

#[tokio::test]
async fn allowed_and_refused_attempts_are_told_apart_on_every_way_in() {
    let attack = Attack::p0().await;
    let refused = attack
        .explicit("CONNECT evil.test:443 HTTP/1.1\\r\\nHost: evil.test:443\\r\\n\\r\\n")
        .await;
    assert_eq!((refused.status, refused.reason.as_deref()), (Some(403), Some("host_not_allowed")));
    assert_eq!(attack.upstream_connections(), 0);
    let request =
        "GET /x HTTP/1.1\\r\\nHost: api.allowed.test\\r\\nAuthorization: {{TOK_A}}\\r\\n\\r\\n";
    let inside = attack.tunnel("api.allowed.test:443", request).await;
    assert_eq!(inside.status, Some(200), "{inside:?}");
    assert_eq!(
        attack.api.requests()[0].header("authorization").unwrap(),
        attack.tollgate.value("KEY_A")
    );
    let token = attack.expand("{{TOK_A}}");
    let misdirected = Frames::new().get(1, "open.allowed.test", "/", &[("authorization", &token)]);
    let misdirected = attack.h2("open.allowed.test", &misdirected).await;
    assert_eq!(
        (misdirected.status, misdirected.reason.as_deref()),
        (Some(403), Some("secret_misdirected"))
    );
    let fine =
        attack.h2("open.allowed.test", &Frames::new().get(1, "open.allowed.test", "/", &[])).await;
    assert_eq!(fine.status, Some(200), "{fine:?}");
    attack.finish().await;
}

/// A proxy that refuses the whole input, and in one way of sending it does something else.
async fn refusing_but(other: impl Fn(Piece) -> Option<End>, forwards: impl Fn(Piece) -> bool) {
    let forwarded = AtomicUsize::new(0);
    let send = async |piece: Piece| {
        forwarded.fetch_add(usize::from(forwards(piece)), Ordering::Relaxed);
        other(piece).unwrap_or(End { status: Some(403), closed: true })
    };
    cut::everywhere("an input", 40, || forwarded.load(Ordering::Relaxed), send).await;
}

#[tokio::test]
async fn a_refusal_that_holds_everywhere_passes() {
    refusing_but(|_| None, |_| false).await;
}

#[tokio::test]
#[should_panic(expected = "something was forwarded")]
async fn what_is_forwarded_of_a_piece_is_seen() {
    refusing_but(|_| None, |piece| piece == Piece::CutOff(17)).await;
}

#[tokio::test]
#[should_panic(expected = "cut off after 39")]
async fn a_piece_that_succeeds_is_seen() {
    let success = End { status: Some(200), closed: true };
    refusing_but(|piece| (piece == Piece::CutOff(39)).then_some(success), |_| false).await;
}

#[tokio::test]
#[should_panic(expected = "left open")]
async fn a_piece_that_leaves_the_connection_open_is_seen() {
    let open = End { status: None, closed: false };
    refusing_but(|piece| (piece == Piece::CutOff(1)).then_some(open), |_| false).await;
}

#[tokio::test]
#[should_panic(expected = "in two pieces")]
async fn another_verdict_in_two_pieces_is_seen() {
    let other = End { status: Some(400), closed: true };
    refusing_but(|piece| matches!(piece, Piece::Two(_)).then_some(other), |_| false).await;
}
