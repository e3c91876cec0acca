//! That the helpers themselves see what they should: an attack that works, and one that does not.

use crate::support::{Attack, Frames, cut_at_every_byte};

#[tokio::test]
async fn allowed_and_refused_attempts_are_told_apart_on_every_way_in() {
    let attack = Attack::p0().await;
    let head = b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n";
    let refused = attack
        .explicit("CONNECT evil.test:443 HTTP/1.1\\r\\nHost: evil.test:443\\r\\n\\r\\n")
        .await;
    assert_eq!((refused.status, refused.reason.as_deref()), (Some(403), Some("host_not_allowed")));
    cut_at_every_byte(&attack, head, Some(403)).await;
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
