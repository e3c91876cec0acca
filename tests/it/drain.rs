//! Stopping: no new connections, what runs may end, and after the deadline it is cut.

use std::time::Duration;

use http::{Request, Response};
use tollgate::config::{Config, Overrides};
use tollgate::server::Server;
use tollgate::shutdown::Drained;

use crate::support::{Protocol, Tollgate, Upstream, empty, full};

const POLICY: &str = r#"
secretStores: { keys: { egressAllowlist: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

/// A second server on the files of the first, which the test may stop in its own way.
async fn second(tollgate: &Tollgate, drain: Duration) -> Server {
    let overrides = Overrides { sandbox: Some("sb-test".to_owned()), ..Overrides::default() };
    let mut config = Config::load(Some(&tollgate.config_file()), &overrides).unwrap();
    config.limits.drain_timeout = drain;
    Server::start(&config).await.unwrap()
}

fn slow(pause: Duration) -> crate::support::Builder {
    Upstream::https("api.example.com").handler(move |_request| async move {
        tokio::time::sleep(pause).await;
        Response::new(empty())
    })
}

#[tokio::test]
async fn a_running_request_ends_by_itself_and_nobody_new_is_served() {
    let upstream = slow(Duration::from_millis(300)).await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let server = second(&tollgate, Duration::from_secs(5)).await;
    let sandbox = tollgate.sandbox_of(&server, "sb-test");
    for protocol in [Protocol::H1, Protocol::H2] {
        let mut connection = sandbox.open("https://api.example.com/", protocol).await.unwrap();
        let request = Request::get("https://api.example.com/").body(full("")).unwrap();
        let running = tokio::spawn(async move { connection.send(request).await.status });
        tokio::time::sleep(Duration::from_millis(100)).await;
        if protocol == Protocol::H2 {
            let drained = server.shut_down().await;
            assert_eq!(drained, Drained::All);
            assert_eq!(running.await.unwrap(), 200);
            break;
        }
        assert_eq!(running.await.unwrap(), 200);
    }
    assert!(tokio::net::TcpStream::connect(sandbox.proxy()).await.is_err(), "the listener is gone");
    tollgate.finish().await;
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline() {
    let upstream = slow(Duration::from_secs(60)).await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let server = second(&tollgate, Duration::from_millis(200)).await;
    let sandbox = tollgate.sandbox_of(&server, "sb-test");
    let mut connection = sandbox.open("https://api.example.com/", Protocol::H1).await.unwrap();
    let request = Request::get("https://api.example.com/").body(full("")).unwrap();
    let running = tokio::spawn(async move { connection.begin(request).await.is_ok() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = tokio::time::Instant::now();
    assert!(matches!(server.shut_down().await, Drained::Cut(1..)));
    assert!(began.elapsed() < Duration::from_secs(2));
    running.abort();
    tollgate.finish().await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let server = second(&tollgate, Duration::from_secs(20)).await;
    let sandbox = tollgate.sandbox_of(&server, "sb-test");
    let mut kept = Vec::new();
    for protocol in [Protocol::H1, Protocol::H2] {
        let mut connection = sandbox.open("https://api.example.com/", protocol).await.unwrap();
        let request = Request::get("https://api.example.com/").body(full("")).unwrap();
        assert_eq!(connection.send(request).await.status, 200);
        kept.push(connection);
    }
    let idle = sandbox.dial().await;
    let unused = sandbox.tls("api.example.com", Protocol::H1).await;
    let began = tokio::time::Instant::now();
    assert_eq!(server.shut_down().await, Drained::All);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop((kept, idle, unused));
    tollgate.finish().await;
}
