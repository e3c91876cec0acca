//! The roles *TCP relay* and *TLS relay*: what a proxy costs before it reads any HTTP.
//!
//! Each client connection has one upstream connection of its own. The TLS relay resumes sessions on
//! both sides and speaks to the upstream the protocol that its client has chosen.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::workload::BOUND_HOST;
use crate::{Fault, tls};

/// Buffers of one direction: large where nothing else buffers, one record where TLS does.
const TCP_BUFFER: usize = 64 << 10;
const TLS_BUFFER: usize = 16 << 10;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    upstream: SocketAddr,
}

pub(crate) async fn tcp(options: &Options) -> Result<(), Fault> {
    let upstream = options.upstream;
    listen(move |client| async move {
        let server = dial(upstream).await?;
        splice(client, server, TCP_BUFFER).await
    })
    .await
}

pub(crate) async fn tls(options: &Options) -> Result<(), Fault> {
    let upstream = options.upstream;
    let provider = tls::proxy_provider;
    let config = tls::server(&options.dir, provider(), &[tls::H2, tls::HTTP_1_1])?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let roots = tls::roots(&tls::root_file(&options.dir))?;
    let h1 = TlsConnector::from(Arc::new(tls::client(&roots, provider(), tls::HTTP_1_1)?));
    let h2 = TlsConnector::from(Arc::new(tls::client(&roots, provider(), tls::H2)?));
    let name = ServerName::try_from(BOUND_HOST)?;
    listen(move |client| {
        let (acceptor, h1, h2, name) = (acceptor.clone(), h1.clone(), h2.clone(), name.clone());
        async move {
            let client = acceptor.accept(client).await?;
            let speaks_h2 = client.get_ref().1.alpn_protocol() == Some(tls::H2);
            let connector = if speaks_h2 { h2 } else { h1 };
            let server = connector.connect(name, dial(upstream).await?).await?;
            splice(client, server, TLS_BUFFER).await
        }
    })
    .await
}

/// Announces a port of its own choice and serves until the harness closes our stdin.
pub(crate) async fn listen<F, S>(serve: S) -> Result<(), Fault>
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let harness_gone =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let accept = async {
        loop {
            let (client, _) = listener.accept().await?;
            client.set_nodelay(true)?;
            // A client that leaves in the middle of an exchange is how every window ends.
            drop(tokio::spawn(serve(client)));
        }
    };
    tokio::select! {
        done = accept => done,
        _ = harness_gone => Ok(()),
    }
}

async fn dial(upstream: SocketAddr) -> Result<TcpStream, Fault> {
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

async fn splice<C, S>(mut client: C, mut server: S, buffer: usize) -> Result<(), Fault>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(&mut client, &mut server, buffer, buffer).await?;
    server.shutdown().await?;
    Ok(())
}
