//! The DNS responder: no tunnel, no leak, no amplifier; and Tollgate's own resolver, which believes its name servers alone.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's set-up fails the test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::support::names::{Names, addresses, question, with_edns};
use crate::support::{P0, Tollgate};

// not yet: DNS-027 is the firewall's: what the rules do not redirect to the responder goes nowhere

const SINK: &str = "198.18.0.1";

async fn p0(config: Value) -> Tollgate {
    Tollgate::describe(P0, &[])
        .sidecar("sb-a")
        .config(json!({
            "listen": { "dns": ["127.0.0.1:0"] },
            "dns": { "sink": [SINK] },
            "limits": { "dnsQuestions": 100_000 },
        }))
        .config(config)
        .start()
        .await
}

/// A question for a name of these labels, whatever bytes they hold.
fn of_labels(labels: &[&[u8]], kind: u16, class: u16) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in labels {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&class.to_be_bytes());
    message
}

fn plain() -> Vec<u8> {
    of_labels(&[b"api", b"allowed", b"test"], 1, 1)
}

async fn code_of(names: &Names, message: &[u8]) -> Option<ResponseCode> {
    let udp = names.udp(message).await;
    let tcp = names.tcp(&[message.to_vec()]).await;
    assert_eq!(udp.as_slice(), tcp, "TCP says the same as UDP: {}", message.escape_ascii());
    udp.map(|answer| {
        assert!(answer.len() <= message.len() + 32, "{}", message.escape_ascii());
        Message::from_vec(&answer).unwrap().metadata.response_code
    })
}

async fn asked_nobody(tollgate: Tollgate) -> Vec<Value> {
    assert_eq!(tollgate.dns().questions(), [""; 0], "somebody was asked");
    let mut events = tollgate.finish().await;
    // The same question again is counted only.
    events.retain(|event| event.get("others").is_none());
    events
}

/// The sink, where the client then reads why it is denied; in the other mode REFUSED. Nobody is asked in either.
#[tokio::test]
async fn DNS_001_a_denied_name_asks_nobody_and_is_recorded() {
    for (mode, code) in [("sink", ResponseCode::NoError), ("refused", ResponseCode::Refused)] {
        let tollgate = p0(json!({ "dns": { "denied": mode } })).await;
        let answer = Names::of(&tollgate).ask("evil.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, code);
        let events = asked_nobody(tollgate).await;
        assert_eq!((&events[0]["event"], &events[0]["host"]), (&json!("dns"), &json!("evil.test")));
        assert_eq!(events[0]["reason"], "host_not_allowed");
        assert_eq!(events[0]["answer"], mode);
    }
}

#[tokio::test]
async fn DNS_003_names_below_a_wildcard_carry_nothing_out() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    let messages: Vec<_> = (0..1000)
        .map(|nth| question(&format!("mfrggzdfmztwq2lk{nth}.wild.test."), RecordType::A))
        .map(|message| message.to_vec().unwrap())
        .collect();
    let answers = names.tcp(&messages).await;
    let told: BTreeSet<_> =
        answers.iter().flat_map(|answer| addresses(&Message::from_vec(answer).unwrap())).collect();
    assert_eq!(answers.len(), 1000);
    assert_eq!(told, BTreeSet::from([SINK.parse().unwrap()]), "the answer says nothing either");
    assert_eq!(asked_nobody(tollgate).await.len(), 0);
}

#[tokio::test]
async fn DNS_004_other_types_are_refused() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    // TXT, NULL, MX, SRV, CNAME, ANY, AXFR, IXFR, a private one; NS, SOA, PTR, DNSKEY, CAA, 0.
    for kind in [16, 10, 15, 33, 5, 255, 252, 251, 65280, 2, 6, 12, 48, 257, 0] {
        let message = of_labels(&[b"api", b"allowed", b"test"], kind, 1);
        assert_eq!(code_of(&names, &message).await, Some(ResponseCode::Refused), "{kind}");
    }
    let events = asked_nobody(tollgate).await;
    assert!(events.iter().all(|event| event["reason"] == "protocol_not_allowed"), "{events:#?}");
}

#[tokio::test]
async fn DNS_007_what_is_not_one_question_is_not_answered() {
    use ResponseCode::{FormErr, NotImp, Refused};
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    let with = |at: usize, byte: u8| {
        let mut message = plain();
        message[at] = byte;
        message
    };
    for (what, message, code) in [
        ("IQUERY", with(2, 0x08), Some(NotImp)),
        ("STATUS", with(2, 0x10), Some(NotImp)),
        ("NOTIFY", with(2, 0x20), Some(NotImp)),
        ("UPDATE", with(2, 0x28), Some(NotImp)),
        ("an answer", with(2, 0x81), None),
        ("no question", with(5, 0), Some(FormErr)),
        ("two questions", with(5, 2), Some(FormErr)),
        ("answers in a question", with(7, 5), Some(FormErr)),
        ("authorities in a question", with(9, 1), Some(FormErr)),
        ("version.bind", of_labels(&[b"version", b"bind"], 16, 3), Some(Refused)),
        ("class CH", of_labels(&[b"api", b"allowed", b"test"], 1, 3), Some(Refused)),
        ("class ANY", of_labels(&[b"api", b"allowed", b"test"], 1, 255), Some(Refused)),
        ("class 0", of_labels(&[b"api", b"allowed", b"test"], 1, 0), Some(Refused)),
        ("a flag of mDNS", of_labels(&[b"api", b"allowed", b"test"], 1, 0x8001), Some(Refused)),
    ] {
        assert_eq!(code_of(&names, &message).await, code, "{what}");
    }
    asked_nobody(tollgate).await;
}

#[tokio::test]
async fn DNS_008_letter_case_is_kept_in_the_question_and_ignored_in_the_verdict() {
    let tollgate = p0(json!({ "dns": { "denied": "refused" } })).await;
    let names = Names::of(&tollgate);
    let message = of_labels(&[b"aPi", b"AlLoWeD", b"TeSt"], 1, 1);
    let answer = names.udp(&message).await.unwrap();
    assert_eq!(answer[12..message.len()], message[12..], "the question, byte by byte");
    assert_eq!(addresses(&Message::from_vec(&answer).unwrap()).len(), 1);
    let denied = of_labels(&[b"eViL", b"TeSt"], 1, 1);
    let answer = names.udp(&denied).await.unwrap();
    assert_eq!(answer[12..], denied[12..]);
    assert_eq!(answer[3] & 0xf, 5);
    asked_nobody(tollgate).await;
}

#[tokio::test]
async fn DNS_009_a_label_that_is_no_label_is_no_other_name() {
    let tollgate = p0(json!({ "dns": { "denied": "refused" } })).await;
    let names = Names::of(&tollgate);
    for labels in [
        &[b"evil\0".as_slice(), b"wild", b"test"][..],
        &[b"a.wild", b"test"],
        &[b"api.allowed.test"],
        &[b"api", b"allowed.test"],
        &[b"api\0", b"allowed", b"test"],
        &[b"localhost\0", b"wild", b"test"],
        &[b"\xff", b"wild", b"test"],
        &[b"a b", b"wild", b"test"],
        &[b"a\\b", b"wild", b"test"],
        &[b"*", b"wild", b"test"],
        &[b"-a", b"wild", b"test"],
        &["bücher".as_bytes(), b"wild", b"test"],
        &[b"127", b"0", b"0", b"1"],
        &[b"0x7f", b"1"],
        &[b"2130706433"],
        &[],
    ] {
        let message = of_labels(labels, 1, 1);
        assert_eq!(code_of(&names, &message).await, Some(ResponseCode::Refused), "{labels:?}");
    }
    assert_eq!(code_of(&names, &plain()).await, Some(ResponseCode::NoError));
    asked_nobody(tollgate).await;
}

/// A thousand pieces, cuts and changes of a good message, besides those of the case; `fuzz/` holds a target of its own.
#[tokio::test]
async fn DNS_011_malformed_messages_are_dropped_or_refused() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    let good = with_edns("api.allowed.test.", RecordType::A).to_vec().unwrap();
    let mut messages = vec![Vec::new(), vec![0; 11], vec![0; 12], vec![0xff; 512], vec![0; 1232]];
    messages.extend((0..good.len()).map(|end| good[..end].to_vec()));
    for length in 64..=191 {
        let mut message = good.clone();
        message[12] = length;
        messages.push(message);
    }
    for at in 0..good.len() {
        for byte in [0, 1, 0x3f, 0xc0, 0xff] {
            let mut message = good.clone();
            message[at] = byte;
            messages.push(message);
        }
    }
    for message in &messages {
        drop(names.sent(message).await);
    }
    let large = vec![0x41; 60_000];
    assert_eq!(names.udp(&large).await, None);
    assert_eq!(names.tcp(&[large]).await, [[0_u8; 0]; 0], "and the connection is closed");
    // It still answers, on both ways.
    names.ask("api.allowed.test.", RecordType::A).await;
    asked_nobody(tollgate).await;
}

/// The answer is the question and one short record, whatever buffer the question claims to have; only the named address answers.
#[tokio::test]
async fn DNS_012_an_answer_amplifies_nothing() {
    let tollgate = p0(json!({ "dns": { "sink": [SINK, "2001:2::1"], "denied": "refused" } })).await;
    let names = Names::of(&tollgate);
    let longest = [[b'a'; 63]; 3].map(|label| String::from_utf8(label.to_vec()).unwrap()).join(".");
    for name in ["a.b.", "api.allowed.test.", "evil.test.", &format!("{longest}.wild.test.")] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::ANY] {
            let mut message = with_edns(name, kind);
            message.edns.as_mut().unwrap().set_max_payload(65535);
            let asked = message.to_vec().unwrap();
            let answer = names.udp(&asked).await.unwrap();
            assert!(answer.len() <= asked.len() + 64, "{name} {kind}: {}", answer.len());
            assert!(answer.len() <= 512, "it never needs to be cut");
            assert!(!Message::from_vec(&answer).unwrap().metadata.truncation);
        }
    }
    asked_nobody(tollgate).await;
}

#[tokio::test]
async fn DNS_016_tcp_has_the_policy_of_udp() {
    let tollgate = p0(json!({ "dns": { "denied": "refused" } })).await;
    let names = Names::of(&tollgate);
    // Both are asked over both.
    let denied = names.ask("evil.test.", RecordType::A).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::Refused);
    let mut two = plain();
    two[5] = 2;
    two.extend_from_slice(&plain()[12..]);
    assert_eq!(code_of(&names, &two).await, Some(ResponseCode::FormErr));
    let events = asked_nobody(tollgate).await;
    let carried: BTreeSet<_> =
        events.iter().map(|event| event["protocol"].as_str().unwrap()).collect();
    assert_eq!(
        carried,
        BTreeSet::from(["dns/udp"]),
        "the same question again is counted: {events:#?}"
    );
}

/// Names that only a host's own resolver would know are names like any other: the sink, or REFUSED.
#[tokio::test]
async fn DNS_018_reverse_and_internal_names_say_nothing_of_the_host() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    for name in
        ["1.0.0.10.in-addr.arpa.", "1.0.0.127.in-addr.arpa.", "254.169.254.169.in-addr.arpa."]
    {
        let answer = names.ask(name, RecordType::PTR).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
    }
    for name in [
        "kubernetes.default.svc.cluster.local.",
        "metadata.google.internal.",
        "localhost.",
        "api.allowed.test.cluster.local.",
    ] {
        let answer = names.ask(name, RecordType::A).await;
        assert_eq!(addresses(&answer), [SINK.parse::<std::net::IpAddr>().unwrap()], "{name}");
    }
    asked_nobody(tollgate).await;
    let tollgate = p0(json!({ "dns": { "denied": "refused" } })).await;
    let answer = Names::of(&tollgate).ask("metadata.google.internal.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    asked_nobody(tollgate).await;
}

#[tokio::test]
async fn DNS_019_real_addresses_are_never_told() {
    let tollgate = p0(json!({})).await;
    tollgate.dns().set("internal.allowed.test", &["10.0.0.5"]);
    let answer = Names::of(&tollgate).ask("internal.allowed.test.", RecordType::A).await;
    assert_eq!(addresses(&answer), [SINK.parse::<std::net::IpAddr>().unwrap()]);
    asked_nobody(tollgate).await;
}

/// A name server of the test's, which answers each question with several datagrams.
pub(super) async fn liar(lies: fn(&[u8]) -> Vec<Vec<u8>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            for lie in lies(&buffer[..length]) {
                drop(socket.send_to(&lie, peer).await);
            }
        }
    });
    address
}

/// An answer to the question with these records behind it, each a compressed name's `A` record.
pub(super) fn answer_to(asked: &[u8], records: &[u8], (answers, additionals): (u8, u8)) -> Vec<u8> {
    let end = 12 + asked[12..].iter().position(|&byte| byte == 0).unwrap() + 5;
    let mut answer = asked[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, additionals]);
    answer.extend_from_slice(records);
    answer
}

/// `internal.allowed.test` is opened by name, and 127.0.0.1 is allowed to private names in tests: who believes the lie connects to it.
async fn believed(lies: fn(&[u8]) -> Vec<Vec<u8>>, host: &str) -> (u16, String) {
    let resolver = liar(lies).await.to_string();
    let tollgate = p0(json!({
        "upstream": { "resolver": [resolver] },
        "limits": { "connectTimeout": "1500ms" },
    }))
    .await;
    let answer = tollgate.sandbox("sb-a").get(&format!("https://{host}/")).await;
    let found = (answer.status, answer.reason().to_owned());
    tollgate.finish().await;
    found
}

const LOOPBACK: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x01";

#[tokio::test]
async fn DNS_022_the_resolver_believes_only_answers_to_its_own_questions() {
    // Port 443 of loopback has nobody: a believed answer is `unreachable`, another one has no address or times out.
    let honest =
        believed(|asked| vec![answer_to(asked, LOOPBACK, (1, 0))], "internal.allowed.test").await;
    assert_eq!(honest, (502, "upstream_unreachable".to_owned()), "the test can tell belief");
    let wrong_id: fn(&[u8]) -> Vec<Vec<u8>> = |asked| {
        let mut lie = answer_to(asked, LOOPBACK, (1, 0));
        lie[0] ^= 1;
        vec![lie]
    };
    let wrong_question: fn(&[u8]) -> Vec<Vec<u8>> = |asked| {
        let mut lie = answer_to(asked, LOOPBACK, (1, 0));
        lie[13] ^= 1;
        vec![lie]
    };
    let out_of_bailiwick: fn(&[u8]) -> Vec<Vec<u8>> = |asked| {
        // An address for another name, as an answer and beside it.
        let other = b"\x04evil\x04test\x00\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x01";
        vec![answer_to(asked, &[other.as_slice(), other].concat(), (1, 1))]
    };
    for (what, lies) in [
        ("another id", wrong_id),
        ("another question", wrong_question),
        ("another name's address", out_of_bailiwick),
    ] {
        let (status, reason) = believed(lies, "internal.allowed.test").await;
        assert!(
            (status, reason.as_str()) == (502, "upstream_unresolvable")
                || (status, reason.as_str()) == (504, "upstream_timeout"),
            "{what}: {status} {reason}"
        );
    }
}

/// Each question has an id and a port of its own, that nobody can foresee.
#[tokio::test]
async fn DNS_022_questions_of_the_resolver_cannot_be_foreseen() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = socket.local_addr().unwrap().to_string();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut buffer = [0; 1500];
        while seen.len() < 16 {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            seen.push((u16::from_be_bytes([buffer[0], buffer[1]]), peer.port()));
            let answer = answer_to(&buffer[..length], LOOPBACK, (1, 0));
            socket.send_to(&answer, peer).await.unwrap();
        }
        seen
    });
    let tollgate = p0(json!({ "upstream": { "resolver": [resolver] } })).await;
    let sandbox = tollgate.sandbox("sb-a");
    for nth in 0..8 {
        sandbox.get(&format!("https://n{nth}.wild.test/")).await;
    }
    let seen = seen.await.unwrap();
    let distinct = |of: fn(&(u16, u16)) -> u16| seen.iter().map(of).collect::<BTreeSet<_>>().len();
    assert!(distinct(|(id, _)| *id) > 8 && distinct(|(_, port)| *port) > 8, "{seen:?}");
    tollgate.finish().await;
}

#[tokio::test]
async fn DNS_023_dnssec_flags_change_nothing() {
    let tollgate = p0(json!({})).await;
    let mut message = with_edns("api.allowed.test.", RecordType::A);
    message.metadata.checking_disabled = true;
    message.metadata.authentic_data = true;
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let answer = Names::of(&tollgate).ask_message(&message).await;
    assert!(!answer.metadata.authentic_data && !answer.metadata.checking_disabled);
    assert!(!answer.edns.as_ref().unwrap().flags().dnssec_ok);
    let kinds: Vec<_> = answer.answers.iter().map(|record| record.record_type()).collect();
    assert_eq!(kinds, [RecordType::A]);
    assert!(answer.authorities.is_empty() && answer.additionals.is_empty());
    asked_nobody(tollgate).await;
}

#[tokio::test]
async fn DNS_025_the_introspection_name_is_the_sink_whatever_policy_and_dns_say() {
    let policy = "secretStores: { s: { egressAllowlist: [api.allowed.test], egressDenylist: [tollgate.internal, \"*\"] } }\n\
                  sandboxes: { sb-a: { secretStores: [s] } }\n";
    let tollgate = Tollgate::describe(policy, &[])
        .config(json!({
            "listen": { "dns": ["127.0.0.1:0"] },
            "dns": { "sink": [SINK], "denied": "refused" },
        }))
        .start()
        .await;
    tollgate.dns().set("tollgate.internal", &["10.0.0.5"]);
    let names = Names::of(&tollgate);
    let answer = names.ask("tollgate.internal.", RecordType::A).await;
    assert_eq!(addresses(&answer), [SINK.parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(answer.answers[0].dns_class, DNSClass::IN);
    let denied = names.ask("api.allowed.test.", RecordType::A).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::Refused);
    asked_nobody(tollgate).await;
}

#[tokio::test]
async fn DNS_026_a_name_forges_no_line() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    for label in [
        b"a\n{\"level\":\"info\"}".as_slice(),
        b"\x1b[2J",
        b"%n",
        b"\"},{\"",
        b"\\u000a",
        b"\xe2\x80\xae",
    ] {
        let message = of_labels(&[label, b"wild", b"test"], 1, 1);
        assert_eq!(code_of(&names, &message).await, Some(ResponseCode::Refused));
    }
    let log = tollgate.log();
    // Every line is one JSON object without a control byte: `finish` asserts it.
    let events = asked_nobody(tollgate).await;
    assert_eq!(events[0]["host"], "a\\n{\\\"level\\\":\\\"info\\\"}.wild.test");
    assert_eq!(events[1]["host"], "\\x1b[2J.wild.test");
    assert!(events.iter().all(|event| event["host"].as_str().unwrap().is_ascii()));
    assert!(!log.contains('\x1b') && !log.contains("\"level\":\"info\""), "{log}");
}

/// Its key of an encrypted ClientHello would hide the real name from Tollgate.
#[tokio::test]
async fn TLS_013_keys_of_an_encrypted_client_hello_are_never_told() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        for name in ["api.allowed.test.", "_8443._https.api.allowed.test.", "evil.test."] {
            let answer = names.ask_message(&with_edns(name, kind)).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty() && answer.additionals.is_empty(), "{answer:?}");
            assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        }
    }
    asked_nobody(tollgate).await;
}

/// In any letter case, since resolvers shuffle it.
#[tokio::test]
async fn SUB_010_a_sealed_token_in_a_name_is_an_alert() {
    let tollgate = p0(json!({})).await;
    let names = Names::of(&tollgate);
    let token = tollgate.sandbox("sb-a").token("KEY_A").to_owned();
    for name in [token.clone(), token.to_ascii_uppercase()] {
        for kind in [RecordType::A, RecordType::TXT] {
            let answer = names.ask(&format!("{name}.wild.test."), kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        }
    }
    let events = asked_nobody(tollgate).await;
    assert_eq!(events.len(), 2, "{events:#?}");
    for event in events {
        assert_eq!(
            (&event["event"], &event["host"]),
            (&json!("alert"), &json!("tok:KEY_A.wild.test"))
        );
        assert_eq!(event["reason"], "secret_misdirected");
    }
}

/// A placeholder with large letters is known in the small ones of a canonical host, and in any that a resolver has shuffled.
#[tokio::test]
async fn SUB_010_a_placeholder_in_a_name_is_known_in_any_case() {
    const SHAPED: &str = r#"
secretStores:
  keys:
    egressAllowlist: ["*.wild.test"]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [api.wild.test], placeholder: "AKIA{sealed:16:A-Z2-7}" }
sandboxes: { sb-a: { secretStores: [keys] } }
"#;
    let tollgate = Tollgate::describe(SHAPED, &[])
        .sidecar("sb-a")
        .config(json!({ "listen": { "dns": ["127.0.0.1:0"] }, "dns": { "sink": [SINK] } }))
        .start()
        .await;
    let sandbox = tollgate.sandbox("sb-a");
    let token = sandbox.token("KEY");
    let shuffled = token.replace('A', "a");
    for name in [token, &token.to_ascii_lowercase(), &shuffled] {
        let answer = Names::of(&tollgate).ask(&format!("{name}.wild.test."), RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
        let answer = sandbox.get(&format!("http://{name}.wild.test/")).await;
        assert_eq!(answer.status, 403, "{name}");
        assert_eq!(answer.header("x-deny-reason"), Some("secret_misdirected"), "{name}");
    }
    let events = asked_nobody(tollgate).await;
    assert!(events.iter().any(|event| event["answer"] == "refused"), "{events:#?}");
    assert!(events.iter().all(|event| event["host"] == "tok:KEY.wild.test"), "{events:#?}");
}
