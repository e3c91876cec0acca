//! The DNS responder: names of known sandboxes lead to Tollgate, nobody is asked, and what is refused is recorded.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use serde_json::json;
use tollgate::dns::{self, Denied, Settings, Sinks};

use crate::clients::{client, python};
use crate::support::names::{self, Names, addresses, question, with_edns};
use crate::support::{Tollgate, Upstream, namespace};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, "*.wild.example.com", "odd.example.com:8443", "every.example.com:*"]
    egressDenylist: [bad.wild.example.com, "half.wild.example.com:443", "every.example.com:443", "every.example.com:1"]
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

async fn start(config: serde_json::Value) -> Tollgate {
    let listen = json!({ "listen": { "dns": ["127.0.0.1:0"] } });
    Tollgate::describe(POLICY, &[]).config(listen).config(config).start().await
}

#[tokio::test]
async fn every_name_leads_to_the_sinks_and_nobody_is_asked() {
    let tollgate = start(json!({ "dns": { "sink": ["198.18.0.1", "2001:2::1"] } })).await;
    let names = Names::of(&tollgate);
    for name in
        ["api.example.com.", "evil.example.net.", "tollgate.internal.", "localhost.", "a.b.c.d.e."]
    {
        for (kind, sink) in [(RecordType::A, "198.18.0.1"), (RecordType::AAAA, "2001:2::1")] {
            let answer = names.ask(name, kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
            assert_eq!(addresses(&answer), [sink.parse::<IpAddr>().unwrap()], "{name}");
            assert!(answer.answers[0].ttl <= 60);
            assert!(answer.metadata.recursion_available && !answer.metadata.authentic_data);
        }
        for kind in [RecordType::HTTPS, RecordType::SVCB] {
            let answer = names.ask(name, kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty() && answer.authorities.len() == 1);
        }
    }
    assert_eq!(tollgate.dns().questions(), [""; 0]);
    tollgate.finish().await;
}

#[tokio::test]
async fn without_a_sink_the_listeners_own_address_is_told_and_the_other_family_has_no_data() {
    let tollgate = start(json!({})).await;
    let names = Names::of(&tollgate);
    let answer = names.ask("api.example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let answer = names.ask("api.example.com.", RecordType::AAAA).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty() && answer.authorities.len() == 1);
    let answer = names.ask("1.0.0.127.in-addr.arpa.", RecordType::PTR).await;
    let RData::PTR(name) = &answer.answers[0].data else { panic!("{answer:?}") };
    assert_eq!(name.0.to_ascii(), "tollgate.internal.");
    let other = names.ask("2.0.0.127.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(other.metadata.response_code, ResponseCode::Refused);
    tollgate.finish().await;
}

#[tokio::test]
async fn refused_mode_refuses_what_no_port_is_open_for_and_says_why() {
    let tollgate = start(json!({ "dns": { "denied": "refused" } })).await;
    let names = Names::of(&tollgate);
    for open in [
        "api.example.com.",
        "deep.a.wild.example.com.",
        "half.wild.example.com.",
        "odd.example.com.",
        "every.example.com.",
        "tollgate.internal.",
    ] {
        let answer = names.ask(open, RecordType::A).await;
        assert_eq!(addresses(&answer).len(), 1, "{open}");
    }
    for (denied, reason) in [
        ("evil.example.net.", "host_not_allowed"),
        ("wild.example.com.", "host_not_allowed"),
        ("bad.wild.example.com.", "host_denied"),
    ] {
        let answer = names.ask_message(&with_edns(denied, RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{denied}");
        let options = answer.edns.unwrap();
        let (_, option) = &options.options().options[0];
        let told = Vec::<u8>::try_from(option).unwrap();
        assert_eq!(told, [&[0, 15], reason.as_bytes()].concat(), "{denied}");
        assert!(names.ask(denied, RecordType::A).await.edns.is_none(), "no OPT to who sent none");
    }
    let events = tollgate.finish().await;
    let denied = events.iter().find(|event| event["reason"] == "host_denied").unwrap();
    assert_eq!(denied["event"], "dns");
    assert_eq!(denied["host"], "bad.wild.example.com");
    assert_eq!((&denied["method"], &denied["answer"]), (&json!("A"), &json!("refused")));
    assert_eq!(denied["sandboxID"], "sb-test");
    assert!(denied["rule"].as_str().unwrap().contains("bad.wild.example.com"), "{denied}");
    assert!(denied.get("status").is_none() && denied.get("port").is_none());
}

#[tokio::test]
async fn who_is_no_sandbox_is_refused() {
    let policy = "sandboxes: { sb-one: { sources: [192.0.2.1] } }\n";
    let tollgate = Tollgate::describe(policy, &[])
        .config(json!({ "listen": { "dns": ["127.0.0.1:0"] } }))
        .start()
        .await;
    let answer = Names::of(&tollgate).ask("api.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let events = tollgate.finish().await;
    assert_eq!(events[0]["reason"], "sandbox_unknown");
    assert!(events[0].get("sandboxID").is_none());
}

#[tokio::test]
async fn a_listener_of_one_sandbox_answers_that_one_alone() {
    let policy = "secretStores:\n  one: { egressAllowlist: [one.example.com] }\n  two: { egressAllowlist: [two.example.com] }\n\
                  sandboxes:\n  sb-one: { secretStores: [one] }\n  sb-two: { secretStores: [two] }\n  sb-far: { secretStores: [two], sources: [192.0.2.1] }\n";
    let at = |sandbox: &str| json!({ "address": "127.0.0.1:0", "sandbox": sandbox });
    let tollgate = Tollgate::describe(policy, &[])
        .config(json!({
            "listen": { "dns": [at("sb-one"), at("sb-two"), at("sb-far"), "127.0.0.1:0"] },
            "dns": { "denied": "refused" },
        }))
        .start()
        .await;
    let addresses = tollgate.server().dns();
    for (nth, open) in [(0, Some("one")), (1, Some("two")), (2, None), (3, None)] {
        for name in ["one", "two"] {
            let answer =
                Names::at(addresses[nth]).ask(&format!("{name}.example.com."), RecordType::A).await;
            let expected =
                if open == Some(name) { ResponseCode::NoError } else { ResponseCode::Refused };
            assert_eq!(answer.metadata.response_code, expected, "{name} at {nth}");
        }
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn each_sandbox_is_known_by_its_source_and_a_reload_takes_effect_within_a_connection() {
    let of = |source: &str| format!("sandboxes: {{ sb-one: {{ sources: [{source}] }} }}\n");
    let tollgate = Tollgate::describe(&of("127.0.0.1"), &[])
        .config(json!({ "listen": { "dns": ["127.0.0.1:0"] } }))
        .start()
        .await;
    let names = Names::of(&tollgate);
    let mut connection = names.connect().await;
    let mut ask = async || {
        use tokio::io::AsyncWriteExt as _;
        let bytes = question("api.example.com.", RecordType::A).to_vec().unwrap();
        connection.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        connection.write_all(&bytes).await.unwrap();
        Message::from_vec(&names::read(&mut connection).await.unwrap()).unwrap()
    };
    assert_eq!(ask().await.metadata.response_code, ResponseCode::NoError);
    tollgate.reload(&of("192.0.2.1")).unwrap();
    assert_eq!(ask().await.metadata.response_code, ResponseCode::Refused);
    tollgate.finish().await;
}

#[tokio::test]
async fn many_questions_are_answered_on_one_connection_in_their_order() {
    let tollgate = start(json!({})).await;
    let questions: Vec<_> =
        (0..50).map(|nth| question(&format!("n{nth}.example.com."), RecordType::A)).collect();
    let bytes: Vec<_> = questions.iter().map(|question| question.to_vec().unwrap()).collect();
    let answers = Names::of(&tollgate).tcp(&bytes).await;
    let ids: Vec<_> =
        answers.iter().map(|answer| Message::from_vec(answer).unwrap().metadata.id).collect();
    let asked: Vec<_> = questions.iter().map(|question| question.metadata.id).collect();
    assert_eq!(ids, asked);
    tollgate.finish().await;
}

#[tokio::test]
async fn above_its_rate_a_sandbox_gets_silence_over_udp_and_refused_over_tcp() {
    let tollgate = start(json!({ "limits": { "dnsQuestions": 1 } })).await;
    let names = Names::of(&tollgate);
    let bytes = question("api.example.com.", RecordType::A).to_vec().unwrap();
    assert!(names.udp(&bytes).await.is_some());
    let answers = names.tcp(&[bytes.clone(), bytes.clone(), bytes.clone()]).await;
    let code = |answer: &Vec<u8>| Message::from_vec(answer).unwrap().metadata.response_code;
    let refused = answers.iter().filter(|answer| code(answer) == ResponseCode::Refused).count();
    assert!(answers.len() == 3 && refused >= 1, "{answers:?}");
    let mut silent = 0;
    for _ in 0..10 {
        silent += usize::from(names.udp(&bytes).await.is_none());
    }
    assert!(silent > 0);
    let events = tollgate.finish().await;
    let over = events.iter().filter(|event| event["reason"] == "limit_exceeded");
    assert_eq!(over.count(), 1, "the first, and then a sum: {events:#?}");
    assert!(events.last().unwrap()["others"].as_u64().unwrap() >= 1);
}

#[tokio::test]
async fn a_flood_of_denied_names_leaves_a_few_lines_and_their_sum() {
    let tollgate = start(json!({ "limits": { "dnsQuestions": 10_000 } })).await;
    let names = Names::of(&tollgate);
    let bytes: Vec<_> = (0..500)
        .map(|nth| question(&format!("data{nth}.evil.example."), RecordType::A).to_vec().unwrap())
        .collect();
    assert_eq!(names.tcp(&bytes).await.len(), 500);
    let events = tollgate.finish().await;
    assert_eq!(events.len(), 51, "fifty and their sum");
    assert_eq!(events[0]["answer"], "sink");
    assert_eq!(events[50]["others"], 450);
}

#[tokio::test]
async fn one_sandbox_is_served_on_sockets_that_were_handed_over() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = std::net::UdpSocket::bind(address).unwrap();
    let proxy = tollgate.server().proxy();
    let sandbox = proxy.registry.get("sb-test").unwrap();
    let settings = Settings { sinks: Sinks::ISOLATED, denied: Denied::Sink };
    dns::serve_sandbox(proxy, &sandbox, settings, vec![udp], vec![tcp]).unwrap();
    let answer = Names::at(address).ask("api.example.com.", RecordType::AAAA).await;
    assert_eq!(addresses(&answer), [IpAddr::V6(Sinks::ISOLATED.v6.unwrap())]);
    tollgate.finish().await;
}

#[tokio::test]
async fn questions_are_counted_by_their_answer_and_never_by_their_name() {
    let tollgate = start(json!({ "listen": { "metrics": "127.0.0.1:0" } })).await;
    let names = Names::of(&tollgate);
    names.ask("secret-plans.example.", RecordType::A).await;
    names.ask("secret-plans.example.", RecordType::TXT).await;
    names.udp(b"nonsense, and not a question").await;
    let metrics = tollgate.server().metrics().unwrap();
    let text = tokio::task::spawn_blocking(move || scrape(metrics)).await.unwrap();
    assert!(text.contains("tollgate_dns_questions_total{answer=\"sink\"} 2"), "{text}");
    assert!(text.contains("tollgate_dns_questions_total{answer=\"refused\"} 2"), "{text}");
    assert!(
        !text.contains("secret-plans")
            && !text.contains("tollgate_requests_total{verdict=\"deny\"}"),
        "{text}"
    );
    tollgate.finish().await;
}

fn scrape(metrics: std::net::SocketAddr) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn dig_reads_every_answer_without_a_warning() {
    let Some(dig) = client(None, "dig") else { return };
    let tollgate = start(json!({
        "listen": { "dns": ["[::1]:0"] },
        "dns": { "sink": ["198.18.0.1", "2001:2::1"], "denied": "refused" },
    }))
    .await;
    let address = tollgate.server().dns()[0];
    let ask = async |arguments: &str| {
        let mut command = tokio::process::Command::new(&dig);
        command.args(["@::1", "-p", &address.port().to_string(), "+tries=1", "+time=5"]);
        command.args(arguments.split(' '));
        let output = command.output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && !text.contains("WARNING") && !text.contains("malformed"),
            "{arguments}: {text}"
        );
        text
    };
    for (arguments, expected) in [
        ("api.example.com A +short", "198.18.0.1\n"),
        ("api.example.com AAAA +short +tcp", "2001:2::1\n"),
        ("ApI.eXaMpLe.CoM A +short +nocookie +dnssec", "198.18.0.1\n"),
        ("-x 198.18.0.1 +short", "tollgate.internal.\n"),
        ("-x 2001:2::1 +short", "tollgate.internal.\n"),
        ("api.example.com HTTPS +short", ""),
    ] {
        assert_eq!(ask(arguments).await, expected, "{arguments}");
    }
    let denied = ask("evil.example.net A").await;
    for part in ["status: REFUSED", "EDE: 15 (Blocked): (host_not_allowed)"] {
        assert!(denied.contains(part), "{part}: {denied}");
    }
    assert!(!denied.contains("COOKIE"), "no cookie is echoed: {denied}");
    for (arguments, part) in [
        ("api.example.com HTTPS", "status: NOERROR"),
        ("api.example.com TXT", "status: REFUSED"),
        ("example.com AXFR", "Transfer failed"),
        ("api.example.com A +edns=1 +noednsneg", "status: BADVERS"),
        ("version.bind TXT CH", "status: REFUSED"),
        ("api.example.com A +opcode=update +noedns", "status: NOTIMP"),
    ] {
        let text = ask(arguments).await;
        assert!(text.contains(part), "{arguments}: {text}");
    }
    tollgate.finish().await;
}

/// The resolver of the C library, in a mount namespace of its own where `/etc/resolv.conf` names the responder; needs root.
#[tokio::test]
async fn the_c_librarys_resolver_finds_every_name_at_the_sinks() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: a mount namespace needs root; tests/run has it in CI");
        return;
    }
    // Port 53 of an address that no other test or server has.
    let tollgate = start(json!({
        "listen": { "dns": ["127.83.71.53:53"] },
        "dns": { "sink": ["198.18.0.1", "2001:2::1"], "denied": "refused" },
    }))
    .await;
    let conf = tollgate.folder().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.83.71.53\noptions timeout:5 attempts:1\n").unwrap();
    let within = async |script: &str| {
        let script = format!("mount --bind {} /etc/resolv.conf && {script}", conf.display());
        let mut command = tokio::process::Command::new("unshare");
        let output = command.args(["--mount", "sh", "-c", &script]).output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (found, text) = within("getent ahosts api.example.com").await;
    assert!(found && text.contains("198.18.0.1") && text.contains("2001:2::1"), "{text}");
    assert!(!within("getent ahosts evil.example.net").await.0);
    let (found, text) = within("getent hosts 198.18.0.1").await;
    assert!(found && text.contains("tollgate.internal"), "{text}");
    if let Some(python) = python() {
        let ask = "import socket; print(sorted({a[4][0] for a in socket.getaddrinfo('api.example.com', 443)}))";
        let (found, text) = within(&format!("{python} -c \"{ask}\"")).await;
        assert!(found && text.trim() == "['198.18.0.1', '2001:2::1']", "{text}");
    }
    tollgate.finish().await;
}

/// All that it has is a name server, a route that Tollgate's rules redirect, and Tollgate's authority.
#[test]
fn a_client_with_a_name_server_and_a_route_reaches_its_host() {
    namespace::run(async || {
        let Some(curl) = client(None, "curl") else { return };
        let policy = "secretStores:\n  keys:\n    egressAllowlist: [api.example.com]\n    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }\nsandboxes: { sb-test: { secretStores: [keys] } }\n";
        let upstream = Upstream::https("api.example.com").await;
        let tollgate = Tollgate::describe(policy, &[&upstream])
            .config(json!({
                "listen": { "transparent": ["127.0.0.1:0", "[::1]:0"], "dns": ["127.0.0.1:53"] },
                "dns": { "sink": ["198.51.100.1", "2001:db8::1"] },
            }))
            .start()
            .await;
        let transparent = tollgate.server().transparent();
        namespace::redirect("ip daddr 198.51.100.0/24", transparent[0].port());
        namespace::redirect("ip6 daddr 2001:db8::/32", transparent[1].port());
        let conf = tollgate.folder().join("resolv.conf");
        std::fs::write(&conf, "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n").unwrap();
        let token = tollgate.sandbox("sb-test").token("KEY").to_owned();
        let get = async |family: &str, url: &str| {
            let ca = tollgate.folder().join("authority/ca.pem");
            let fetch = format!(
                "mount --bind {} /etc/resolv.conf && exec {curl} --noproxy '*' --silent --show-error --max-time 30 {family} --cacert {} -H 'Authorization: Bearer {token}' {url}",
                conf.display(),
                ca.display()
            );
            let mut command = tokio::process::Command::new("unshare");
            let output = command.args(["--mount", "sh", "-c", &fetch]).output().await.unwrap();
            assert!(output.status.success(), "{family} {url}: {output:?}");
            tollgate.sandbox_saw(&output.stdout);
            String::from_utf8(output.stdout).unwrap()
        };
        for family in ["-4", "-6", ""] {
            get(family, "https://api.example.com/v1").await;
            let value = format!("Bearer {}", tollgate.value("KEY"));
            assert_eq!(upstream.requests().pop().unwrap().header("authorization").unwrap(), value);
            let denied = get(family, "https://evil.example.net/").await;
            assert!(denied.contains("\"reason\":\"host_not_allowed\""), "{denied}");
            let own = get(family, "http://tollgate.internal/allowed-hosts").await;
            assert!(own.contains("\"sandboxID\":\"sb-test\""), "{own}");
        }
        assert_eq!(tollgate.dns().questions(), [""; 0], "connectTo names the upstream");
        tollgate.finish().await;
    });
}
