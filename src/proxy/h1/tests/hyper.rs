//! The guards under hyper: refusals in pipeline order, tunnels, and dead connections.

use std::convert::Infallible;

use ::hyper::{
    Request, Response, StatusCode, body::Incoming, service::service_fn, upgrade::Upgraded,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::{ExpectedResponse, HeadLimits, RequestGuard, ResponseGuard, ResponseRefusal};

fn answer(status: StatusCode) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

#[tokio::test]
async fn the_answer_to_a_refused_head_leaves_after_the_answers_before_it_and_closes() {
    let (mut client, server) = duplex(1024);
    let (guard, verdicts) = RequestGuard::new(server, HeadLimits::default());
    let service = service_fn(async |_: Request<Incoming>| {
        let verdict = verdicts.next();
        // The answer is not there at once: hyper looks at the stream meanwhile.
        tokio::task::yield_now().await;
        answer(if verdict.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST })
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(guard), service);
    let talk = async {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        client.write_all(format!("{good}{good}{bad}{good}").as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        answers
    };
    let (ended, answers) = tokio::join!(connection, talk);
    ended.unwrap();
    let statuses: Vec<_> = answers.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
    assert_eq!(statuses, ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request"]);
}

#[tokio::test]
async fn an_accepted_connect_gives_its_early_bytes_back() {
    let (mut client, server) = duplex(1024);
    let (guard, verdicts) = RequestGuard::new(server, HeadLimits::default());
    let (tunnels, mut tunnel) = tokio::sync::mpsc::channel(1);
    let service = service_fn(async |mut request: Request<Incoming>| {
        verdicts.next().unwrap();
        tunnels.try_send(hyper::upgrade::on(&mut request)).unwrap();
        answer(StatusCode::OK)
    });
    client.write_all(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nearly").await.unwrap();
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    let (ended, upgraded) = tokio::join!(connection, async { tunnel.recv().await.unwrap().await });
    ended.unwrap();
    let upgraded: Upgraded = upgraded.unwrap();
    let parts = upgraded.downcast::<TokioIo<RequestGuard<DuplexStream>>>().unwrap();
    assert!(parts.read_buf.is_empty(), "hyper saw nothing behind the head");
    assert_eq!(parts.io.into_inner().into_parts().1, "early");
}

#[tokio::test]
async fn a_surplus_response_kills_the_pooled_connection() {
    let (client, mut upstream) = duplex(1024);
    let (guard, expectations) = ResponseGuard::new(client, HeadLimits::default());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(guard)).await.unwrap();
    let request =
        || Request::builder().uri("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let client = async {
        expectations.push(ExpectedResponse::Normal);
        let body = sender.send_request(request()).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "one");
        assert_eq!(expectations.refusal(), Some(ResponseRefusal::Unsolicited));
        assert!(sender.send_request(request()).await.is_err());
    };
    let serve = async {
        assert!(upstream.read_u8().await.is_ok());
        let one = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
        let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        upstream.write_all(format!("{one}{evil}").as_bytes()).await.unwrap();
    };
    let (ended, (), ()) = tokio::join!(connection, client, serve);
    assert!(ended.is_err());
}
