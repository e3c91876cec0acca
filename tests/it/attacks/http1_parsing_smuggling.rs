//! HTTP/1 that two parsers could read in two ways: it is refused, the connection ends, and no byte behind it becomes a request.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::wire::{API, answering_in_turn, answers, api_h1, holds, p0_with, start};
use crate::support::{Attack, P0, Protocol, eventually, exchange};

/// Each is refused with this status before any upstream is dialled, and the connection ends after that one answer.
async fn refused(attack: &Attack, status: u16, variants: &[&str]) {
    for text in variants {
        let outcome = attack.tunnel(API, text).await;
        assert_eq!(outcome.status, Some(status), "{text}: {outcome:?}");
        assert!(outcome.closed, "{text}");
        assert_eq!(answers(&outcome.bytes), 1, "{text}");
    }
    assert_eq!(attack.upstream_connections(), 0);
}

async fn refused_by_p0(status: u16, variants: &[&str]) {
    let attack = Attack::p0().await;
    refused(&attack, status, variants).await;
    let events = attack.finish().await;
    let denied = events.iter().filter(|event| event["verdict"] == "deny").count();
    assert_eq!(denied, variants.len(), "{events:#?}");
}

/// The head is good and the body is not. Bodies stream (DESIGN.md, Seals), so the upstream may have been dialled: what it got is never a
/// whole request, and the client gets no success.
async fn cut(variants: &[&str]) {
    let attack = p0_with(api_h1().await).await;
    for text in variants {
        let outcome = attack.tunnel(API, text).await;
        assert_ne!(outcome.status, Some(200), "{text}: {outcome:?}");
        assert!(outcome.closed, "{text}: {outcome:?}");
        assert!(answers(&outcome.bytes) <= 1, "{text}: {outcome:?}");
    }
    assert_eq!(attack.upstream_requests(), 0);
    assert!(!holds(&attack.api.received(), "evil.test"));
    attack.finish().await;
}

#[tokio::test]
async fn H1_004_content_length_twice() {
    refused_by_p0(
        400,
        &[
            r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 5, 5\r\n\r\nhello",
            r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 5, 6\r\n\r\nhello",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_008_transfer_encoding_twice() {
    refused_by_p0(
        400,
        &[
            r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_014_a_bare_lf_ends_a_chunk_size() {
    cut(&[
        r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn H1_017_a_chunk_extension_with_crlf_in_quotes() {
    cut(&[
        r#"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"\r\nX\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n\"\r\nY\r\n0\r\n\r\n"#,
    ])
    .await;
}

#[tokio::test]
async fn H1_020_spellings_of_the_last_chunk() {
    let attack = p0_with(api_h1().await).await;
    let text = r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n000\r\n\r\n";
    let outcome = attack.tunnel(API, text).await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    assert_eq!(attack.api.request().body, "hello");
    assert!(!holds(&attack.api.received(), "000\r\n"), "the last chunk is written anew");
    attack.finish().await;
    cut(&[
        r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0;a=b\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn H1_021_trailers_that_would_frame_route_or_authenticate() {
    const TRAILERS: &str = r"Trailer: Authorization, Host, Content-Length, Transfer-Encoding, X-Sum\r\n\r\n5\r\nhello\r\n0\r\nHost: evil.test\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\nX-Sum: 1\r\n";
    let head = format!(
        r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n{TRAILERS}"
    );
    for h1_only in [true, false] {
        let attack = if h1_only { p0_with(api_h1().await).await } else { Attack::p0().await };
        let outcome = attack
            .tunnel(API, &format!(r"{head}Authorization: Bearer {{{{TOK_A}}}}\r\n\r\n"))
            .await;
        assert_ne!(outcome.status, Some(200), "{outcome:?}");
        assert_eq!(attack.upstream_requests(), 0, "a token in a trailer ends the request");
        let outcome =
            attack.tunnel(API, &format!(r"{head}Authorization: Bearer none\r\n\r\n")).await;
        assert_eq!(outcome.status, Some(200), "{outcome:?}");
        let seen = attack.api.request();
        assert_eq!(seen.body, "hello");
        let names: Vec<_> = seen.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| *name == "x-sum"), "{names:?}");
        assert!(!holds(&attack.api.received(), "evil.test"));
        attack.finish().await;
    }
}

#[tokio::test]
async fn H1_023_bare_lf_in_a_head() {
    refused_by_p0(
        400,
        &[
            r"GET / HTTP/1.1\nHost: api.allowed.test\n\n",
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\nContent-Length: 35\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_024_bare_cr_in_a_head() {
    refused_by_p0(
        400,
        &[
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\rb\r\n\r\n",
            r"GET /\r HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
            r"GET / HTTP/1.1\rHost: evil.test\r\nHost: api.allowed.test\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_025_a_folded_header() {
    refused_by_p0(
        400,
        &[
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer\r\n {{TOK_A}}\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_027_control_bytes_and_obs_text_in_a_value() {
    refused_by_p0(
        400,
        &[
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\0b\r\n\r\n",
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\x7fb\r\n\r\n",
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\x08\r\n\r\n",
        ],
    )
    .await;
    let attack = p0_with(api_h1().await).await;
    let outcome = attack
        .tunnel(API, r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: \xff\xfe\r\n\r\n")
        .await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    let received = attack.api.received();
    assert!(memchr::memmem::find(&received, b"X: \xff\xfe\r\n").is_some(), "byte for byte");
    attack.finish().await;
}

#[tokio::test]
async fn H1_030_white_space_before_the_first_header() {
    refused_by_p0(
        400,
        &[r"GET / HTTP/1.1\r\n Content-Length: 5\r\nHost: api.allowed.test\r\n\r\nhello"],
    )
    .await;
}

#[tokio::test]
async fn H1_031_a_target_with_a_fragment_or_raw_bytes() {
    refused_by_p0(
        400,
        &[
            r"GET /#/../evil HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
            r"GET /\x80\xff HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
            r"GET /\\evil.test HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_033_an_unknown_expectation() {
    refused_by_p0(
        417,
        &[
            r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nExpect: 100-continue, x\r\nContent-Length: 1\r\n\r\nx",
        ],
    )
    .await;
}

#[tokio::test]
async fn H1_034_interim_answers_are_never_final() {
    let (upstream, _) = answering_in_turn(
        "api.allowed.test",
        &[
            "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo",
        ],
    );
    let attack = p0_with(upstream.await).await;
    let outcome = attack
        .tunnel(
            API,
            r"GET /1 HTTP/1.1\r\nHost: api.allowed.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
        )
        .await;
    let text = String::from_utf8_lossy(&outcome.bytes).into_owned();
    let (one, two) = (text.find("one"), text.find("two"));
    assert!(one.is_some() && one < two, "{text}");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    attack.finish().await;
}

#[tokio::test]
async fn H1_035_answers_with_ambiguous_framing() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\none!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\none!!",
        "HTTP/1.1 200 OK\nContent-Length: 3\n\none",
        "HTTP/1.1 200 OK\r\nX: a\r\n one\r\nContent-Length: 3\r\n\r\none",
        "HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\none",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\none\r\n0\r\n\r\n",
    ] {
        let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
        let (upstream, closed) = answering_in_turn("echo.allowed.test", answers);
        let attack = p0_with(upstream.await).await;
        let outcome = attack
            .tunnel("echo.allowed.test:443", r"GET / HTTP/1.1\r\nHost: echo.allowed.test\r\n\r\n")
            .await;
        if answer.contains(";a") {
            // The head was good and is on its way: the body is cut.
            assert!(outcome.closed && !holds(&outcome.bytes, "0\r\n\r\n"), "{answer}: {outcome:?}");
        } else {
            assert_eq!(outcome.status, Some(502), "{answer}: {outcome:?}");
            assert_eq!(outcome.reason.as_deref(), Some("upstream_unreachable"), "{answer}");
        }
        assert!(!holds(&outcome.bytes, "\r\none") && !holds(&outcome.bytes, "\none"), "{answer}");
        eventually("the upstream's connection is closed", || {
            (closed.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
        })
        .await;
        attack.finish().await;
    }
}

#[tokio::test]
async fn H1_037_an_answer_that_nobody_asked_for() {
    let (upstream, _) = answering_in_turn(
        "api.allowed.test",
        &[
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo",
        ],
    );
    let attack = p0_with(upstream.await).await;
    let mut io = attack.sandbox.tls("api.allowed.test", Protocol::H1).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n");
    let one = exchange(&mut io, get("/1").as_bytes()).await;
    let two = exchange(&mut io, get("/2").as_bytes()).await;
    assert_eq!((one.body.as_str(), two.body.as_str()), ("one", "two"));
    assert_eq!(attack.api.connections(), 2, "the poisoned connection is not used again");
    attack.finish().await;
}

#[tokio::test]
async fn H1_038_an_answer_before_the_body_has_ended() {
    let (upstream, closed) = answering_in_turn(
        "api.allowed.test",
        &[
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig",
            "HTTP/1.1 200 OK\r\n\r\n",
        ],
    );
    let attack = p0_with(upstream.await).await;
    let mut io = attack.sandbox.tls("api.allowed.test", Protocol::H1).await;
    let head = "POST / HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 1000000\r\n\r\n";
    let first = exchange(&mut io, format!("{head}{}", "a".repeat(100)).as_bytes()).await;
    assert_eq!((first.status, first.body.as_str()), (Some(413), "big"));
    // What follows is the rest of the body, whatever it looks like.
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n".repeat(10);
    let rest = exchange(&mut io, smuggled.as_bytes()).await;
    assert_eq!(rest.status, None, "{rest:?}");
    drop(io);
    eventually("the upstream's connection is closed", || {
        (closed.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    assert_eq!(attack.api.connections(), 1);
    attack.finish().await;
}

#[tokio::test]
async fn H1_039_the_body_of_a_denied_request_is_not_the_next_request() {
    let attack = p0_with(api_h1().await).await;
    let smuggled = r"GET /smuggled HTTP/1.1\r\nHost: api.allowed.test\r\nX: {{TOK_A}}\r\n\r\n";
    refused(
        &attack,
        421,
        &[&format!(
            r"POST /x HTTP/1.1\r\nHost: evil.test\r\nContent-Length: {{{{len}}}}\r\n\r\n{smuggled}"
        )],
    )
    .await;
    // Bodies have no limit, they stream (DESIGN.md, Seals): a large one is forwarded, as a body.
    let large = format!(
        r"POST /x HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: {{{{len}}}}\r\n\r\n{{{{repeat:a:2000000}}}}{smuggled}"
    );
    let outcome = attack.tunnel(API, &large).await;
    assert_eq!(outcome.status, Some(200));
    assert_eq!(attack.api.request().target, "/x");
    assert!(holds(&attack.api.request().body, "GET /smuggled"));
    attack.finish().await;
}

#[tokio::test]
async fn H1_040_a_pipelined_request_with_another_token() {
    let attack = p0_with(api_h1().await).await;
    let outcome = attack
        .tunnel(
            API,
            r"POST /a HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_A}}\r\nContent-Length: 0\r\n\r\nPOST /b HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_B}}\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
    let text = String::from_utf8_lossy(&outcome.bytes).into_owned();
    let (good, bad) = (text.find("HTTP/1.1 200"), text.find("HTTP/1.1 403"));
    assert!(good == Some(0) && bad.is_some(), "{text}");
    assert!(text.contains("secret_misdirected"), "{text}");
    assert_eq!(attack.api.request().target, "/a");
    let value = attack.tollgate.value("KEY_A");
    assert_eq!(attack.api.request().header("authorization"), Some(format!("Bearer {value}")));
    let events = attack.finish().await;
    assert!(events.iter().any(|event| event["event"] == "alert"), "{events:#?}");
}

#[tokio::test]
async fn H1_041_connection_names_fields_that_matter() {
    let attack = p0_with(api_h1().await).await;
    let outcome = attack
        .tunnel(
            API,
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nConnection: close, Authorization, Host, Content-Length, X-Egress-Deny\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n",
        )
        .await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    let seen = attack.api.request();
    assert_eq!(seen.header("authorization"), None, "named, so dropped before any substitution");
    assert_eq!(seen.header("host").as_deref(), Some("api.allowed.test"));
    let events = attack.finish().await;
    assert!(events.iter().all(|event| event.get("secrets").is_none()), "{events:#?}");
}

#[tokio::test]
async fn H1_042_fields_between_neighbours_stay_there() {
    let attack = p0_with(api_h1().await).await;
    let text = format!(
        r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nProxy-Authorization: {}\r\nProxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nX-Sandbox-Id: 1\r\n\r\n",
        attack.sandbox.proxy_authorization()
    );
    let outcome = attack.tunnel(API, &text).await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    let seen = attack.api.request();
    for name in ["proxy-authorization", "proxy-connection", "keep-alive", "te", "connection"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    // `X-Sandbox-Id` means nothing to Tollgate and is forwarded as it came (DESIGN.md, Seals).
    assert_eq!(seen.header("x-sandbox-id").as_deref(), Some("1"));
    attack.finish().await;
}

#[tokio::test]
async fn H1_044_method_overrides_where_methods_decide() {
    let policy = P0.replace(
        "[api.allowed.test:443,",
        r#"[{ host: "api.allowed.test:443", methods: [GET, POST] },"#,
    );
    for (policy, kept) in [(policy.as_str(), false), (P0, true)] {
        let attack = start(policy, api_h1().await, json!({})).await;
        let text = r"POST /x HTTP/1.1\r\nHost: api.allowed.test\r\nX-HTTP-Method-Override: DELETE\r\nAuthorization: Bearer {{TOK_A}}\r\nContent-Length: 0\r\n\r\n";
        let outcome = attack.tunnel(API, text).await;
        assert_eq!(outcome.status, Some(200), "{outcome:?}");
        assert_eq!(attack.api.request().header("x-http-method-override").is_some(), kept);
        let denied =
            attack.tunnel(API, r"DELETE /x HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n").await;
        assert_eq!(denied.status, Some(if kept { 200 } else { 403 }), "{denied:?}");
        attack.finish().await;
    }
}

#[tokio::test]
async fn H1_046_limits_of_a_head() {
    const HOST: &str = r"HTTP/1.1\r\nHost: api.allowed.test\r\n";
    let attack = p0_with(api_h1().await).await;
    // `limits.target` is 16 KiB, `limits.fields` 100, `limits.headers` 64 KiB: the limit itself passes, one more does not.
    let target = |length: usize| format!(r"GET /{{{{repeat:a:{}}}}} {HOST}\r\n", length - 1);
    let fields = |more: usize| format!(r"GET / {HOST}{{{{repeat:A: b\r\n:{more}}}}}\r\n");
    let fixed = "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: \r\n\r\n".len();
    let head =
        |length: usize| format!(r"GET / {HOST}X: {{{{repeat:a:{}}}}}\r\n\r\n", length - fixed);
    refused(&attack, 414, &[&target(65_538), &target(16_385)]).await;
    refused(&attack, 431, &[&fields(101), &fields(100), &head(65_537), &head(70_000)]).await;
    for good in [target(16_384), target(16_383), fields(99), fields(98), head(65_536), head(65_535)]
    {
        let outcome = attack.tunnel(API, &good).await;
        assert_eq!(outcome.status, Some(200), "{}", &good[..60]);
    }
    attack.finish().await;
}

#[tokio::test]
async fn H1_047_a_body_longer_or_shorter_than_declared() {
    let attack = p0_with(api_h1().await).await;
    let outcome = attack
        .tunnel(
            API,
            r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        )
        .await;
    let text = String::from_utf8_lossy(&outcome.bytes).into_owned();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("HTTP/1.1 421"), "{text}");
    assert_eq!(attack.api.request().body, "abc");
    let mut io = attack.sandbox.tls("api.allowed.test", Protocol::H1).await;
    let short = b"POST /short HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 10\r\n\r\nabc";
    io.write_all(short).await.unwrap();
    io.flush().await.unwrap();
    eventually("the upstream has the half", || {
        holds(&attack.api.received(), "/short").then_some(())
    })
    .await;
    drop(io.shutdown().await);
    let mut rest = Vec::new();
    drop(io.read_to_end(&mut rest).await);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    attack.tollgate.events(4).await;
    assert_eq!(attack.upstream_requests(), 1, "the half is never taken for the whole");
    attack.finish().await;
}

#[tokio::test]
async fn H1_050_trace_and_its_kin() {
    let attack = p0_with(api_h1().await).await;
    for method in ["TRACE", "TRACK", "DEBUG"] {
        for more in ["", r"Max-Forwards: 0\r\n"] {
            let text = format!(
                r"{method} / HTTP/1.1\r\nHost: api.allowed.test\r\n{more}Authorization: Bearer {{{{TOK_A}}}}\r\n\r\n"
            );
            let outcome = attack.tunnel(API, &text).await;
            assert_eq!(outcome.status, Some(405), "{method}: {outcome:?}");
        }
    }
    assert_eq!(attack.upstream_connections(), 0);
    let options = |hops: &str| {
        format!(
            r"OPTIONS / HTTP/1.1\r\nHost: api.allowed.test\r\nMax-Forwards: {hops}\r\nAuthorization: Bearer {{{{TOK_A}}}}\r\n\r\n"
        )
    };
    let outcome = attack.tunnel(API, &options("0")).await;
    assert_eq!((outcome.status, outcome.body.as_str()), (Some(200), ""), "{outcome:?}");
    assert_eq!(attack.upstream_connections(), 0, "the proxy answers itself");
    let outcome = attack.tunnel(API, &options("1")).await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    assert!(holds(&outcome.bytes, attack.sandbox.token("KEY_A")), "{outcome:?}");
    attack.finish().await;
}

#[tokio::test]
async fn H1_053_connect_with_a_body() {
    let attack = Attack::p0().await;
    for text in [
        r"CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\nContent-Length: 5\r\n\r\nhello",
        r"CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let outcome = attack.explicit(text).await;
        assert_eq!(outcome.status, Some(400), "{outcome:?}");
        assert!(outcome.closed);
    }
    assert_eq!(attack.upstream_connections(), 0);
    attack.finish().await;
}
