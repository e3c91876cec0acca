//! What the client does: the shape of the load, the request it sends, the unit of its cost.

use std::fmt;

use clap::ValueEnum;

/// The host whose policy binds a secret, and the one that is listed without a secret.
pub(crate) const BOUND_HOST: &str = "bench.example.com";
pub(crate) const PLAIN_HOST: &str = "plain.example.com";

/// Path of the small answer.
pub(crate) const SMALL_PATH: &str = "/v1/items?page=1";

/// Path and length of the large answer.
pub(crate) const LARGE_PATH: &str = "/large";
pub(crate) const LARGE_LENGTH: u64 = 100 << 20;

/// Length of the body of a POST.
pub(crate) const POST_LENGTH: usize = 64 << 10;

/// One kind of load; the letters are those of the performance notes.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// GET over 32 connections that are kept alive.
    #[value(name = "A")]
    KeepAlive,
    /// GET over a single connection that is kept alive: what a request waits.
    #[value(name = "A1")]
    KeepAliveOne,
    /// A new connection for each GET; the client resumes its TLS session.
    #[value(name = "B")]
    NewConnection,
    /// A new connection for each GET, with a full handshake each.
    #[value(name = "B-full")]
    NewConnectionFull,
    /// POST of 64 KiB over 8 connections.
    #[value(name = "C")]
    Post,
    /// GET of 100 MiB from the host with a bound secret, whose answers are scrubbed.
    #[value(name = "D")]
    Download,
    /// GET of 100 MiB from a host without a secret.
    #[value(name = "D-plain")]
    DownloadPlain,
    /// HTTP/2 client: 32 connections of 10 streams.
    #[value(name = "G")]
    Http2,
    /// Memory of a connection that has done one request and waits.
    #[value(name = "E")]
    Idle,
    /// Time from process start to the first answer.
    #[value(name = "F")]
    ColdStart,
}

/// How a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One request after the other.
    KeepAlive,
    /// One request, and then the next connection.
    Anew,
    /// HTTP/2 with this many requests under way.
    Streams(usize),
}

/// What the cost of a window is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// CPU microseconds for each request.
    Operation,
    /// CPU seconds for each GiB of bodies.
    Gibibyte,
    /// KiB of memory for each connection.
    Connection,
    /// Milliseconds.
    Start,
}

impl Workload {
    /// How many connections send at once.
    pub(crate) fn connections(self) -> usize {
        match self {
            Self::KeepAlive | Self::Http2 => 32,
            Self::NewConnection | Self::NewConnectionFull | Self::Post => 8,
            Self::KeepAliveOne
            | Self::Download
            | Self::DownloadPlain
            | Self::Idle
            | Self::ColdStart => 1,
        }
    }

    /// How a connection is used.
    pub(crate) fn style(self) -> Style {
        match self {
            Self::NewConnection | Self::NewConnectionFull => Style::Anew,
            Self::Http2 => Style::Streams(10),
            Self::KeepAlive
            | Self::KeepAliveOne
            | Self::Post
            | Self::Download
            | Self::DownloadPlain
            | Self::Idle
            | Self::ColdStart => Style::KeepAlive,
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::KeepAlive
            | Self::KeepAliveOne
            | Self::NewConnection
            | Self::NewConnectionFull
            | Self::Http2 => Unit::Operation,
            Self::Post | Self::Download | Self::DownloadPlain => Unit::Gibibyte,
            Self::Idle => Unit::Connection,
            Self::ColdStart => Unit::Start,
        }
    }

    pub(crate) fn host(self) -> &'static str {
        if self == Self::DownloadPlain { PLAIN_HOST } else { BOUND_HOST }
    }

    /// The whole HTTP/1.1 request, head and body, built once.
    pub(crate) fn request(self, authorization: &str) -> Vec<u8> {
        let host = self.host();
        let path = if self.is_download() { LARGE_PATH } else { SMALL_PATH };
        let (method, body) = match self == Self::Post {
            true => ("POST", vec![b'x'; POST_LENGTH]),
            false => ("GET", Vec::new()),
        };
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: e2e\r\naccept: */*\r\n"
        );
        if host == BOUND_HOST {
            head += &format!("authorization: {authorization}\r\n");
        }
        if !body.is_empty() {
            head += &format!(
                "content-type: application/octet-stream\r\ncontent-length: {}\r\n",
                body.len()
            );
        }
        head += "\r\n";
        let mut request = head.into_bytes();
        request.extend_from_slice(&body);
        request
    }

    fn is_download(self) -> bool {
        matches!(self, Self::Download | Self::DownloadPlain)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeepAlive => "A  keep-alive GET, 32 connections",
            Self::KeepAliveOne => "A1  keep-alive GET, 1 connection",
            Self::NewConnection => "B  new connection each, client resumes TLS",
            Self::NewConnectionFull => "B-full  new connection each, full handshake",
            Self::Post => "C  POST 64 KiB, 8 connections",
            Self::Download => "D  100 MiB down, host with a bound secret",
            Self::DownloadPlain => "D-plain  100 MiB down, host without a secret",
            Self::Http2 => "G  HTTP/2 client, 32 connections x 10 streams",
            Self::Idle => "E  memory of an idle connection",
            Self::ColdStart => "F  cold start",
        })
    }
}
