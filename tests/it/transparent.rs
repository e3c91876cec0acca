//! Redirected connections are recognised by their address, named by SNI or Host, and decided like any other.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Protocol, Sandbox, Tollgate, Upstream, full, namespace, read_all};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, "api.example.com:8443"]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com, "api.example.com:8443"] } }
  docs:
    egressAllowlist: [docs.example.com, 198.51.100.9]
sandboxes:
  sb-a: { secretStores: [keys], sources: ["10.0.0.5", "fd00:a::/64"] }
  sb-b: { secretStores: [docs], sources: ["10.0.0.0/16"] }
"#;

/// Where a redirected client believes that it goes; nobody is there.
const SOMEWHERE: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), 443);

/// Two sandboxes behind one redirecting namespace, and an upstream of many names.
struct Bed {
    tollgate: Tollgate,
    upstream: Upstream,
    a: Sandbox,
    b: Sandbox,
}

impl Bed {
    async fn start() -> Self {
        let upstream = Upstream::https("api.example.com").await;
        let config = json!({ "listen": { "transparent": ["127.0.0.1:0", "[::1]:0"] } });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(config).start().await;
        let transparent = tollgate.server().transparent();
        namespace::redirect("ip daddr 198.51.100.0/24", transparent[0].port());
        namespace::redirect("ip6 daddr 2001:db8::/32", transparent[1].port());
        let a = tollgate.sandbox("sb-a").dialling_from("10.0.0.5".parse().unwrap());
        let b = tollgate.sandbox("sb-b").dialling_from("10.0.0.6".parse().unwrap());
        Self { tollgate, upstream, a, b }
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn a_redirected_client_that_knows_no_proxy_reaches_its_host_with_the_real_value() {
    namespace::run(async || {
        let Bed { tollgate, upstream, a, .. } = Bed::start().await;
        for (address, protocol) in [
            (SOMEWHERE, Protocol::H1),
            (SOMEWHERE, Protocol::H2),
            (at("[2001:db8::7]:443"), Protocol::H1),
        ] {
            let a = if address.is_ipv4() {
                a.clone()
            } else {
                a.clone().dialling_from("fd00:a::5".parse().unwrap())
            };
            let mut connection =
                a.open_at(address, "https://api.example.com/v1", protocol).await.unwrap();
            let request =
                Request::get("https://api.example.com/v1").header("authorization", a.token("KEY"));
            let answer = connection.send(request.body(full("")).unwrap()).await;
            assert_eq!(answer.status, 200, "{address} {protocol:?}: {answer:?}");
        }
        let value = tollgate.value("KEY");
        let requests = upstream.requests();
        assert_eq!(requests.len(), 3);
        assert!(requests.iter().all(|request| request.header("authorization").unwrap() == value));
        let events = tollgate.finish().await;
        assert!(events.iter().all(|event| event["sandboxID"] == "sb-a"), "{events:#?}");
    });
}

#[test]
fn what_is_denied_is_told_inside_tls_and_each_sandbox_has_its_own_policy() {
    namespace::run(async || {
        let Bed { tollgate, upstream, a, b } = Bed::start().await;
        let answer = a.get_at(SOMEWHERE, "https://docs.example.com/").await;
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        let answer = b.get_at(SOMEWHERE, "https://api.example.com/").await;
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        let answer = b.get_at(at("198.51.100.7:8080"), "http://docs.example.com:8080/").await;
        assert_eq!((answer.status, answer.reason()), (403, "port_not_allowed"));
        let answer = a.get_at(SOMEWHERE, "https://tollgate.internal/allowed-hosts").await;
        assert_eq!(answer.json()["sandboxID"], "sb-a");
        assert_eq!(upstream.requests().len(), 0);
        let events = tollgate.finish().await;
        assert_eq!(events.len(), 4, "{events:#?}");
    });
}

#[test]
fn what_is_denied_is_recorded_although_its_client_shakes_hands_and_is_silent() {
    namespace::run(async || {
        let upstream = Upstream::https("api.example.com").await;
        let config = json!({
            "listen": { "transparent": ["127.0.0.1:0"] },
            "limits": { "headerTimeout": "200ms" },
        });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(config).start().await;
        namespace::redirect("ip daddr 198.51.100.0/24", tollgate.server().transparent()[0].port());
        let a = tollgate.sandbox("sb-a").dialling_from("10.0.0.5".parse().unwrap());
        let io = a.dial_at(SOMEWHERE).await;
        let mut silent = a.tls_over(io, "docs.example.com", &[b"http/1.1"]).await.unwrap();
        assert!(read_all(&mut silent, crate::support::SOON).await.1, "it is cut");
        let event = tollgate.event().await;
        assert_eq!(
            (&event["event"], &event["reason"], &event["host"], &event["protocol"]),
            (
                &json!("connection"),
                &json!("host_not_allowed"),
                &json!("docs.example.com"),
                &json!("transparent")
            )
        );
        tollgate.finish().await;
    });
}

#[test]
fn an_address_of_nobody_is_closed_and_recorded() {
    namespace::run(async || {
        let Bed { tollgate, a, .. } = Bed::start().await;
        let nobody = a.dialling_from("127.0.0.9".parse().unwrap());
        assert!(nobody.open_at(SOMEWHERE, "https://api.example.com/", Protocol::H1).await.is_err());
        let event = tollgate.event().await;
        assert_eq!(event["reason"], "sandbox_unknown");
        assert_eq!((&event["host"], &event["port"]), (&json!("198.51.100.7"), &json!(443)));
        assert_eq!(event["protocol"], "transparent");
        assert!(event["sandboxID"].is_null());
        tollgate.finish().await;
    });
}

#[test]
fn without_a_name_only_a_listed_address_is_reached() {
    namespace::run(async || {
        let Bed { tollgate, a, b, .. } = Bed::start().await;
        // An IP literal as name: no SNI is sent.
        let answer = a.get_at(at("198.51.100.9:443"), "https://198.51.100.9/").await;
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        assert!(answer.json()["detail"].as_str().unwrap().contains("names no server"));
        let answer = b.get_at(at("198.51.100.8:443"), "https://198.51.100.8/").await;
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        // Listed, and dialled as it stands; it is a documentation address.
        let answer = b.get_at(at("198.51.100.9:443"), "https://198.51.100.9/").await;
        assert_eq!((answer.status, answer.reason()), (403, "address_not_allowed"));
        tollgate.finish().await;
    });
}

#[test]
fn a_listener_that_is_called_by_its_own_address_answers_nobody() {
    namespace::run(async || {
        let Bed { tollgate, a, .. } = Bed::start().await;
        for listener in tollgate.server().transparent() {
            let a = if listener.is_ipv4() {
                a.clone()
            } else {
                a.clone().dialling_from("fd00:a::5".parse().unwrap())
            };
            assert!(a.open_at(*listener, "https://api.example.com/", Protocol::H1).await.is_err());
        }
        // Redirected on its way to the explicit listener.
        let explicit = tollgate.server().explicit()[0];
        namespace::redirect(
            &format!("ip daddr 127.0.0.1 tcp dport {}", explicit.port()),
            tollgate.server().transparent()[0].port(),
        );
        assert!(a.open_at(explicit, "https://api.example.com/", Protocol::H1).await.is_err());
        let events = tollgate.finish().await;
        assert_eq!(events.len(), 3, "{events:#?}");
        assert!(events.iter().all(|event| event["reason"] == "address_not_allowed"));
    });
}

#[test]
fn the_port_is_the_one_that_the_client_dialled() {
    namespace::run(async || {
        let Bed { tollgate, a, .. } = Bed::start().await;
        let answer = a.get_at(at("198.51.100.7:8444"), "https://api.example.com:8444/").await;
        assert_eq!((answer.status, answer.reason()), (403, "port_not_allowed"));
        let answer = a.get_at(SOMEWHERE, "https://api.example.com:8443/").await;
        assert_eq!((answer.status, answer.reason()), (421, "host_mismatch"));
        let answer = a.get_at(at("198.51.100.7:80"), "http://api.example.com:8443/").await;
        assert_eq!((answer.status, answer.reason()), (421, "host_mismatch"));
        tollgate.finish().await;
    });
}

#[test]
fn what_is_neither_tls_nor_http_is_closed_and_recorded() {
    namespace::run(async || {
        let Bed { tollgate, a, .. } = Bed::start().await;
        for bytes in [b"\x00\x00\x00\x08\x04\xd2\x16\x2f".as_slice(), b"\r\n\r\n\0\r\nQUIT\n!"] {
            let mut io = a.dial_at(at("198.51.100.7:5432")).await;
            io.write_all(bytes).await.unwrap();
            assert_eq!(read_all(&mut io, crate::support::SOON).await.0, b"");
        }
        let events = tollgate.events(2).await;
        assert!(events.iter().all(|event| event["reason"] == "protocol_not_allowed"), "{events:?}");
        tollgate.finish().await;
    });
}

#[test]
fn a_listener_of_another_namespace_serves_the_one_sandbox_it_was_handed_over_for() {
    let (listeners, clients) = std::sync::mpsc::channel();
    let (answered, done) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let upstream = Upstream::https("api.example.com").await;
            let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
            let a = tollgate.sandbox("sb-a").dialling_from("127.0.0.1".parse().unwrap());
            let handed: Result<(std::net::TcpListener, std::sync::mpsc::Sender<Sandbox>), _> =
                clients.recv();
            // Without namespaces there is none.
            let Ok((listener, tell)) = handed else { return tollgate.finish().await };
            let id = "sb-a".parse().unwrap();
            let server = tollgate.server();
            server.serve_handed_over(listener, tollgate::proxy::Kind::Redirected, &id).unwrap();
            tell.send(a).unwrap();
            while done.try_recv().is_err_and(|error| error == std::sync::mpsc::TryRecvError::Empty)
            {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            tollgate.finish().await
        })
    });
    namespace::run(async move || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        namespace::redirect("ip daddr 198.51.100.0/24", listener.local_addr().unwrap().port());
        let (tell, told) = std::sync::mpsc::channel();
        listeners.send((listener, tell)).unwrap();
        let a = told.recv().unwrap();
        let answer = a.get_at(SOMEWHERE, "https://api.example.com/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        drop(answered);
    });
    let events = server.join().unwrap();
    assert!(events.iter().all(|event| event["sandboxID"] == "sb-a"), "{events:?}");
}

#[test]
fn refusals_beyond_the_rate_end_in_an_alert() {
    namespace::run(async || {
        let upstream = Upstream::https("api.example.com").await;
        let config = json!({
            "listen": { "transparent": ["127.0.0.1:0"] },
            "limits": { "toldRefusals": 2 },
        });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(config).start().await;
        namespace::redirect("ip daddr 198.51.100.0/24", tollgate.server().transparent()[0].port());
        let a = tollgate.sandbox("sb-a").dialling_from("10.0.0.5".parse().unwrap());
        for nth in 0..2 {
            let answer = a.get_at(SOMEWHERE, &format!("https://denied-{nth}.example.com/")).await;
            assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        }
        let refused = a.open_at(SOMEWHERE, "https://denied.example.com/", Protocol::H1).await;
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("AccessDenied"), "{error}");
        // The other sandbox has its own, and what is allowed is not counted.
        let b = tollgate.sandbox("sb-b").dialling_from("10.0.0.6".parse().unwrap());
        assert_eq!(b.get_at(SOMEWHERE, "https://api.example.com/").await.status, 403);
        assert_eq!(a.get_at(SOMEWHERE, "https://api.example.com/").await.status, 200);
        let events = tollgate.finish().await;
        assert_eq!(events[2]["host"], "denied.example.com");
        assert_eq!(
            (&events[2]["event"], &events[2]["reason"]),
            (&json!("connection"), &json!("host_not_allowed"))
        );
    });
}

/// A rule hands the packets over as they are, and marked sockets of Tollgate's own pass it by.
#[test]
fn a_tproxy_listener_serves_what_is_handed_over_and_marked_sockets_pass() {
    namespace::run(async || {
        let upstream = Upstream::https("api.example.com").await;
        let config = json!({
            "listen": { "tproxy": ["127.0.0.1:0", "[::1]:0"] },
            "upstream": { "mark": 7 },
        });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(config).start().await;
        let listeners = tollgate.server().transparent();
        namespace::hand_over("ip daddr 198.51.100.0/24", "ip", listeners[0]);
        namespace::hand_over("ip6 daddr 2001:db8::/32", "ip6", listeners[1]);
        // Whatever goes to the upstream unmarked is refused.
        namespace::reject_unmarked(upstream.address(), 7);
        let a = tollgate.sandbox("sb-a").dialling_from("10.0.0.5".parse().unwrap());
        assert_eq!(a.get_at(SOMEWHERE, "https://api.example.com/").await.status, 200);
        let a = a.dialling_from("fd00:a::5".parse().unwrap());
        let answer = a.get_at(at("[2001:db8::7]:443"), "https://api.example.com/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = a.get_at(at("[2001:db8::7]:8444"), "https://api.example.com:8444/").await;
        assert_eq!((answer.status, answer.reason()), (403, "port_not_allowed"));
        tollgate.finish().await;
    });
}
