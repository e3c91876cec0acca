//! The HTTP/2 client: a number of streams under way on each connection at all times.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode, header};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Meter, h1};
use crate::Fault;
use crate::arm::Target;
use crate::workload::{SMALL_PATH, Workload};

const CONNECTION_WINDOW: u32 = 16 << 20;

/// Keeps the workload's streams busy on one connection.
pub(crate) async fn run(
    target: Target,
    workload: Workload,
    streams: usize,
    meter: Arc<Meter>,
) -> Result<(), Fault> {
    let stream = h1::open(&target, &target.h2, workload.host()).await?;
    if stream.get_ref().1.alpn_protocol() != Some(crate::tls::H2) {
        return Err("the peer did not choose h2".into());
    }
    let (requests, connection) = h2::client::Builder::new()
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake::<_, Bytes>(stream)
        .await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { Ok(connection.await?) });
    for _ in 0..streams {
        tasks.spawn(keep_busy(requests.clone(), request(&target, workload)?, Arc::clone(&meter)));
    }
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

async fn keep_busy(
    mut requests: SendRequest<Bytes>,
    request: Request<()>,
    meter: Arc<Meter>,
) -> Result<(), Fault> {
    loop {
        let started = Instant::now();
        requests = requests.ready().await?;
        let (response, _) = requests.send_request(request.clone(), true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(format!("a stream was answered: {:?}", response.headers()).into());
        }
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let count = chunk?.len();
            body.flow_control().release_capacity(count)?;
            meter.received(count);
        }
        meter.operation(started);
    }
}

fn request(target: &Target, workload: Workload) -> Result<Request<()>, Fault> {
    let uri = format!("https://{}{SMALL_PATH}", workload.host());
    Ok(Request::get(uri)
        .header(header::USER_AGENT, "e2e")
        .header(header::ACCEPT, "*/*")
        .header(header::AUTHORIZATION, &target.authorization)
        .body(())?)
}
