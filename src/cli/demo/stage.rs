//! The stage of the tour: a folder that is removed afterwards, an upstream, the proxy, and two sandboxes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Full;

use super::sandbox::Sandbox;
use crate::cli::loopback::{Folder, Respond, Upstream};
use crate::cli::{Failure, serve};
use crate::config::{Config, Overrides};
use crate::server::Server;
use crate::session::Session;

/// The base's key.
pub(super) const BASE_KEY: &str = "sk-live-of-the-team-0000-3f9a";
/// The fork's key.
pub(super) const FORK_KEY: &str = "sk-fork-of-my-own-0000-77c1";

const POLICY: &str = "
secretStores:
  team-base:
    egressAllowlist: [models.example.com, git.example.com]
    secrets:
      MODEL_KEY: { from: { file: team-key }, allowedHosts: [models.example.com] }
  my-fork:
    egressAllowlist: [tools.example.com]
    secrets:
      MODEL_KEY: { from: { file: fork-key }, allowedHosts: [models.example.com] }
sandboxes:
  sb-team: { secretStores: [team-base] }
  sb-fork: { secretStores: [team-base, my-fork] }
";

pub(super) struct Stage {
    server: Server,
    upstream: Upstream,
    /// The `x-api-key` of the last request.
    seen: Seen,
    team: Sandbox,
    fork: Sandbox,
    _folder: Folder,
}

impl Stage {
    pub(super) async fn set() -> Result<Self, Failure> {
        let folder = Folder::make("demo")?;
        let seen = Seen::default();
        let upstream = Upstream::start(&HOSTS, respond(seen.clone())).await?;
        let server = Server::start(&config(&folder, &upstream)?).await?;
        let proxy = *server.explicit().first().ok_or("the proxy does not listen")?;
        let sandbox = |id| -> Result<Sandbox, Failure> {
            Sandbox::new(proxy, session(&server, id)?, &server.proxy().introspection.ca_pem)
        };
        let (team, fork) = (sandbox("sb-team")?, sandbox("sb-fork")?);
        Ok(Self { server, upstream, seen, team, fork, _folder: folder })
    }

    pub(super) const fn team(&self) -> &Sandbox {
        &self.team
    }

    pub(super) const fn fork(&self) -> &Sandbox {
        &self.fork
    }

    /// The `x-api-key` of the last request, if there was a request since the last look.
    pub(super) fn take_key(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn proxy(&self) -> SocketAddr {
        self.server.explicit().first().copied().unwrap_or_else(|| ([127, 0, 0, 1], 0).into())
    }

    /// Stops everything; the folder goes with it.
    pub(super) async fn strike(self) {
        self.upstream.stop().await;
        self.server.shut_down().await;
    }
}

const HOSTS: [&str; 3] = ["models.example.com", "git.example.com", "tools.example.com"];

type Seen = Arc<Mutex<Option<String>>>;

/// Remembers the key, and at `/echo` answers with it.
fn respond(seen: Seen) -> Respond {
    Arc::new(move |head: &Parts, _body: &Bytes| {
        let key = head.headers.get("x-api-key").cloned();
        let key = key.unwrap_or_else(|| HeaderValue::from_static("(none)"));
        let text = String::from_utf8_lossy(key.as_bytes()).into_owned();
        let mut answer = Response::new(Full::from("ok"));
        if head.uri.path() == "/echo" {
            *answer.body_mut() = Full::from(format!("you are {text}"));
            answer.headers_mut().insert("x-echo", key);
        }
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        answer
    })
}

/// A configuration as an operator would write it.
fn config(folder: &Folder, upstream: &Upstream) -> Result<Config, Failure> {
    let key = |name: &str| format!("file: {}", folder.path().join(name).display());
    let policy = POLICY
        .replace("file: team-key", &key("team-key"))
        .replace("file: fork-key", &key("fork-key"));
    let address = upstream.address();
    let connect_to: String =
        HOSTS.iter().map(|host| format!("    \"{host}:443\": \"{address}\"\n")).collect();
    let configuration = format!(
        "listen: {{ explicit: [\"127.0.0.1:0\"] }}\naudit: {{ file: audit.jsonl }}\n\
         egress: {{ allowPrivate: [127.0.0.0/8] }}\nlimits: {{ drainTimeout: 1s }}\n\
         upstream:\n  roots: [upstream.pem]\n  connectTo:\n{connect_to}"
    );
    std::fs::create_dir(folder.path().join("policies"))?;
    for (name, text) in [
        ("team-key", BASE_KEY),
        ("fork-key", FORK_KEY),
        ("upstream.pem", upstream.root_pem()),
        ("policies/demo.yaml", policy.as_str()),
        ("tollgate.yaml", configuration.as_str()),
    ] {
        folder.write(name, text)?;
    }
    Config::load(Some(&folder.path().join("tollgate.yaml")), &Overrides::default())
        .map_err(|errors| serve::failure(&errors))
}

fn session(server: &Server, id: &str) -> Result<Arc<Session>, Failure> {
    let sandbox = server.proxy().registry.get(id);
    let session = sandbox.and_then(|sandbox| sandbox.session().ok());
    session.ok_or_else(|| format!("there is no sandbox {id}").into())
}
