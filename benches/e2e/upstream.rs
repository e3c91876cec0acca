//! The role *upstream*: the cheapest server that still asserts the substitution.
//!
//! A request to the bound host is answered 200 only if its `Authorization` is the real credential,
//! 500 otherwise. HTTP/1.1 is written by hand, HTTP/2 is hyper's.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::workload::{BOUND_HOST, LARGE_LENGTH, LARGE_PATH};
use crate::{Fault, relay, tls};

/// The large answer is this many bytes of noise, again and again.
const BLOCK: usize = 1 << 20;
const SMALL_BODY: &str = r#"{"object":"list","data":[{"id":"item_1","object":"item"}],"has_more":false,"url":"/v1/items"}"#;
const WRONG: &str = "the credential is not the real one";
const HEAD_LIMIT: usize = 64 << 10;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    alpn: String,
}

pub(crate) async fn serve(options: &Options) -> Result<(), Fault> {
    let offered: &[&[u8]] =
        if options.alpn == "h1" { &[tls::HTTP_1_1] } else { &[tls::H2, tls::HTTP_1_1] };
    let config = tls::server(&options.dir, tls::peer_provider(), offered)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let credential = std::fs::read_to_string(options.dir.join("credential"))?;
    let answers = Arc::new(Answers::new(&credential)?);
    relay::listen(move |client| {
        let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
        async move { serve_connection(acceptor.accept(client).await?, answers).await }
    })
    .await
}

async fn serve_connection(
    client: TlsStream<TcpStream>,
    answers: Arc<Answers>,
) -> Result<(), Fault> {
    if client.get_ref().1.alpn_protocol() != Some(tls::H2) {
        return serve_h1(client, &answers).await;
    }
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.h2(request).await) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(1000)
        .serve_connection(TokioIo::new(client), service)
        .await?;
    Ok(())
}

async fn serve_h1(mut client: TlsStream<TcpStream>, answers: &Answers) -> Result<(), Fault> {
    let mut buffer = vec![0; HEAD_LIMIT];
    let mut filled = 0;
    loop {
        let (head, answer, body) = loop {
            let read = buffer.get(..filled).unwrap_or_default();
            if let Some(parsed) = answers.h1(read)? {
                break parsed;
            }
            let rest = buffer.get_mut(filled..).filter(|rest| !rest.is_empty());
            let count = client.read(rest.ok_or("a head above 64 KiB")?).await?;
            if count == 0 {
                return Ok(client.shutdown().await?);
            }
            filled += count;
        };
        let end = discard_body(&mut client, &mut buffer, filled, head, body).await?;
        buffer.copy_within(end..filled.max(end), 0);
        filled = filled.saturating_sub(end);
        match answer {
            H1Answer::Small => client.write_all(&answers.small).await?,
            H1Answer::Wrong => client.write_all(&answers.wrong).await?,
            H1Answer::Large => {
                client.write_all(&answers.large).await?;
                for _ in 0..LARGE_LENGTH / BLOCK as u64 {
                    client.write_all(&answers.block).await?;
                }
            }
        }
        client.flush().await?;
    }
}

/// Reads what is left of a request's body; returns where the next request starts in the buffer.
async fn discard_body(
    client: &mut TlsStream<TcpStream>,
    buffer: &mut [u8],
    filled: usize,
    head: usize,
    body: usize,
) -> Result<usize, Fault> {
    let mut missing = (head + body).saturating_sub(filled);
    if missing == 0 {
        return Ok(head + body);
    }
    while missing > 0 {
        let wanted = missing.min(buffer.len());
        let count = client.read(buffer.get_mut(..wanted).unwrap_or_default()).await?;
        if count == 0 {
            return Err("the client left within a body".into());
        }
        missing -= count;
    }
    Ok(filled)
}

/// What is answered, built once.
struct Answers {
    authorization: String,
    small: Vec<u8>,
    wrong: Vec<u8>,
    large: Vec<u8>,
    block: Bytes,
}

enum H1Answer {
    Small,
    Large,
    Wrong,
}

impl Answers {
    fn new(credential: &str) -> Result<Self, Fault> {
        let mut block = vec![0; BLOCK];
        aws_lc_rs::rand::fill(&mut block)?;
        let head = |status: &str, kind: &str, length: u64| {
            format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n")
        };
        let small = head("200 OK", "application/json", SMALL_BODY.len() as u64) + SMALL_BODY;
        let wrong = head("500 Wrong", "text/plain", WRONG.len() as u64) + WRONG;
        Ok(Self {
            authorization: format!("Bearer {credential}"),
            small: small.into_bytes(),
            wrong: wrong.into_bytes(),
            large: head("200 OK", "application/octet-stream", LARGE_LENGTH).into_bytes(),
            block: block.into(),
        })
    }

    /// Length of the head, the answer, and length of the body; `None` if the head is incomplete.
    fn h1(&self, read: &[u8]) -> Result<Option<(usize, H1Answer, usize)>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = request.parse(read)? else { return Ok(None) };
        let large = request.path == Some(LARGE_PATH);
        let find = |name: &str| {
            let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
            found.map(|h| h.value)
        };
        if find("transfer-encoding").is_some() {
            return Err("the load has no chunked bodies".into());
        }
        let length = find("content-length").map(std::str::from_utf8).transpose()?;
        let body = length.map_or(Ok(0), str::parse)?;
        let bound = find("host") == Some(BOUND_HOST.as_bytes());
        let answer = match large {
            _ if !self.is_right(bound, find("authorization")) => H1Answer::Wrong,
            true => H1Answer::Large,
            false => H1Answer::Small,
        };
        Ok(Some((head, answer, body)))
    }

    async fn h2(&self, mut request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        while let Some(Ok(_)) = request.body_mut().frame().await {}
        let bound = request.uri().host() == Some(BOUND_HOST);
        let value = |headers: &HeaderMap| {
            headers.get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec())
        };
        if !self.is_right(bound, value(request.headers()).as_deref()) {
            let mut response = Response::new(Full::from(WRONG).boxed());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
        if request.uri().path() != LARGE_PATH {
            return Response::new(Full::from(SMALL_BODY).boxed());
        }
        let blocks = (0..LARGE_LENGTH / BLOCK as u64).map({
            let block = self.block.clone();
            move |_| Ok(Frame::data(block.clone()))
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(blocks))));
        response.headers_mut().insert(header::CONTENT_LENGTH, LARGE_LENGTH.into());
        response
    }

    fn is_right(&self, bound: bool, authorization: Option<&[u8]>) -> bool {
        if bound {
            authorization == Some(self.authorization.as_bytes())
        } else {
            authorization.is_none()
        }
    }
}
