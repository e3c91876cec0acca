//! The stage: the real proxy on loopback with the sandboxes' policies and values, and the upstream that stands in for every bound host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::Full;

use super::place::{MESSAGE, Place, Seen, is_signature};
use super::plan::{self, Trial, Way};
use super::{Echo, Outcome, Tried};
use crate::cli::Failure;
use crate::cli::loopback::{Answer, Client, Folder, Respond, Upstream};
use crate::config::{AuditSink, Config, Denials, Listen};
use crate::host::{Destination, Scheme};
use crate::policy::{
    AllowRule, EffectivePolicy, Misdirected, OperatorRules, PolicySet, PrivateAccess, RuleName,
    Store, unite,
};
use crate::secret::{
    Needles, SandboxId, SealKey, SealedToken, SecretName, SecretValue, SourceSpec, StoreName,
};
use crate::server::Server;
use crate::session::{SandboxSpec, SealedSecret, Session};
use crate::shutdown::Tasks;
use crate::stores::{LiveSecret, TokenEndpoints};

type Values = BTreeMap<(StoreName, SecretName), Result<Arc<SecretValue>, String>>;

/// One sandbox with what is to be tried in it.
struct Actor {
    id: SandboxId,
    policy: Arc<EffectivePolicy>,
    trials: Vec<(SecretName, Vec<Trial>)>,
}

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tries everything, one request after the other.
pub(super) async fn try_all(
    config: &Config,
    set: &PolicySet,
    fake_values: bool,
) -> Result<Vec<Tried>, Failure> {
    let actors = actors(set, &config.operator_rules())?;
    let values = values(config, set, &actors, fake_values).await?;
    let folder = Folder::make("selftest")?;
    let seen = Arc::new(Mutex::new(None));
    let hosts: BTreeSet<&Destination> =
        actors.iter().flat_map(Actor::trials).map(|trial| &trial.destination).collect();
    let names: BTreeSet<&str> = hosts.iter().map(|destination| destination.host.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let upstream = Upstream::start(&names, respond(seen.clone())).await?;
    let connect_to = hosts.iter().map(|&host| (host.clone(), upstream.address())).collect();
    let config = on_loopback(config, &folder, connect_to, upstream.root_pem())?;
    let server = Server::start(&config).await?;
    let proxy = *server.explicit().first().ok_or("the proxy does not listen")?;
    seat(&server, &actors, &values)?;
    let mut results = Vec::new();
    for actor in &actors {
        let sandbox = server.proxy().registry.get(actor.id.as_str());
        let session =
            sandbox.ok_or("a sandbox is missing")?.session().map_err(|_denial| "it ended")?;
        let client = Client::new(proxy, &session, &server.proxy().introspection.ca_pem)?;
        for (name, trials) in &actor.trials {
            let sealed = session.by_name(name).ok_or("a secret is missing")?;
            results.extend(try_secret(&session, sealed, trials, &values, &client, &seen).await);
        }
    }
    upstream.stop().await;
    server.shut_down().await;
    Ok(results)
}

impl Actor {
    fn trials(&self) -> impl Iterator<Item = &Trial> {
        self.trials.iter().flat_map(|(_, trials)| trials)
    }
}

/// Every sandbox under the policy as loaded; hosts that only `*` opens get an entry of their own, for loopback is not open to `*`.
fn actors(set: &PolicySet, operator: &OperatorRules) -> Result<Vec<Actor>, Failure> {
    let loopback = (ipnet::IpNet::from(std::net::IpAddr::from([127, 0, 0, 1])), None);
    let operator = OperatorRules {
        closed: operator.closed,
        deny: operator.deny.clone(),
        private: Arc::new(PrivateAccess { entries: vec![loopback], nat64: Vec::new() }),
    };
    let mut actors = Vec::new();
    for (id, entry) in set.sandboxes() {
        let policy = Arc::new(set.effective(&entry.layers, &operator)?);
        let trials: Vec<_> = policy
            .secrets()
            .iter()
            .map(|secret| (secret.name.clone(), plan::trials(&policy, secret)))
            .collect();
        let unnamed: BTreeSet<Destination> = trials
            .iter()
            .flat_map(|(_, trials)| trials)
            .filter(|trial| trial.way.is_ok() && !plan::is_named(&policy, &trial.destination))
            .map(|trial| trial.destination.clone())
            .collect();
        let policy = if unnamed.is_empty() {
            policy
        } else {
            let named = named(unnamed)?;
            let layers = entry.layers.iter().filter_map(|name| set.store(name));
            let layers: Vec<&Store> = layers.chain([&named]).collect();
            Arc::new(unite(&layers, &operator)?)
        };
        actors.push(Actor { id: id.clone(), policy, trials });
    }
    Ok(actors)
}

/// A last layer that names these hosts and nothing else.
fn named(hosts: BTreeSet<Destination>) -> Result<Store, Failure> {
    let name: StoreName = "tollgate.selftest".parse()?;
    let rule = |host: Destination| {
        Ok::<_, Failure>(AllowRule {
            pattern: host.to_string().parse()?,
            schemes: Vec::new(),
            methods: Vec::new(),
            paths: Vec::new(),
            scrub: true,
            name: RuleName::of_layer(name.clone(), "a sample host"),
        })
    };
    let allow: Result<Vec<_>, _> = hosts.into_iter().map(rule).collect();
    let allow = Some(allow?);
    let misdirected = Misdirected::Deny;
    Ok(Store { name, allow, deny: Vec::new(), secrets: BTreeMap::new(), misdirected })
}

/// The values of all secrets that any sandbox has.
async fn values(
    config: &Config,
    set: &PolicySet,
    actors: &[Actor],
    fake: bool,
) -> Result<Values, Failure> {
    let bound = actors.iter().flat_map(|actor| actor.policy.secrets());
    let wanted: BTreeMap<_, _> = bound
        .filter_map(|bound| {
            let def = set.secret(&bound.store, &bound.name)?;
            Some(((bound.store.clone(), bound.name.clone()), def))
        })
        .collect();
    if fake {
        return wanted.into_keys().map(|key| Ok((key.clone(), Ok(made_up(&key.1)?)))).collect();
    }
    // Nothing listens here: it only knows the way to token endpoints.
    let fetches_tokens = wanted.values().any(|def| matches!(def.source, SourceSpec::Token(_)));
    let folder = Folder::make("selftest")?;
    let fetcher = if fetches_tokens {
        let config = Config {
            listen: Listen::default(),
            audit: AuditSink::Nowhere,
            ca_dir: folder.path().join("authority"),
            seal_key: None,
            sandbox: None,
            ..config.clone()
        };
        Some(Server::start(&config).await?)
    } else {
        None
    };
    let endpoints = fetcher
        .as_ref()
        .map_or_else(TokenEndpoints::default, |server| server.policies().token_endpoints().clone());
    let (_trigger, tasks) = Tasks::new();
    let mut values = Values::new();
    for (key, def) in wanted {
        let (source, needs_header) = (def.source.clone(), def.bound.needs_header());
        let live = LiveSecret::new(key.1.clone(), source, needs_header, &endpoints, tasks.clone());
        let value = live.value().await.map_err(|error| format!("{error}; {}", error.hint()));
        values.insert(key, value);
    }
    if let Some(server) = fetcher {
        server.shut_down().await;
    }
    Ok(values)
}

fn made_up(name: &SecretName) -> Result<Arc<SecretValue>, Failure> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_error| "no randomness")?;
    let text = format!("made-up-{name}-{:032x}", u128::from_ne_bytes(random));
    Ok(Arc::new(SecretValue::new(text.into_bytes())?))
}

/// The configuration as loaded, but for what would touch anything beyond the stage.
fn on_loopback(
    config: &Config,
    folder: &Folder,
    connect_to: BTreeMap<Destination, SocketAddr>,
    root_pem: &str,
) -> Result<Config, Failure> {
    let mut config = config.clone();
    config.listen = Listen::on_loopback();
    config.audit = AuditSink::Nowhere;
    config.ca_dir = folder.path().join("authority");
    config.seal_key = None;
    config.sandbox = None;
    config.denials = Denials::Connect;
    config.upstream.roots = vec![folder.write("upstream.pem", root_pem)?];
    config.upstream.connect_to = connect_to;
    Ok(config)
}

/// Gives the proxy the sandboxes with their values, recognised by credentials alone.
fn seat(server: &Server, actors: &[Actor], values: &Values) -> Result<(), Failure> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_error| "no randomness")?;
    let key = SealKey::new(&key);
    let endpoints = TokenEndpoints::default();
    let live = |store: &StoreName, name: &SecretName| {
        let source = match values.get(&(store.clone(), name.clone()))? {
            Ok(value) => SourceSpec::Value(value.clone()),
            // Never asked: its trials have failed already.
            Err(_) => SourceSpec::Env(String::new()),
        };
        let tasks = server.proxy().tasks.clone();
        Some(LiveSecret::new(name.clone(), source, false, &endpoints, tasks))
    };
    let mut specs = Vec::new();
    for actor in actors {
        let policy = actor.policy.clone();
        let session = Session::new(actor.id.clone(), 0, policy, &key, live, Vec::new())?;
        specs.push(SandboxSpec { session, sources: Vec::new() });
    }
    Ok(server.proxy().registry.apply(specs, None)?)
}

async fn try_secret(
    session: &Session,
    sealed: &SealedSecret,
    trials: &[Trial],
    values: &Values,
    client: &Client,
    seen: &Mutex<Option<Seen>>,
) -> Vec<Tried> {
    let tried = |result, detail: &str| Tried {
        sandbox: session.id().clone(),
        secret: sealed.bound.name.clone(),
        host: None,
        place: None,
        result,
        arrived: None,
        echo: None,
        detail: Some(detail.to_owned()).filter(|detail| !detail.is_empty()),
    };
    let value = match values.get(&(sealed.bound.store.clone(), sealed.bound.name.clone())) {
        Some(Ok(value)) => value,
        Some(Err(detail)) => return vec![tried(Outcome::Failed, detail)],
        None => return vec![tried(Outcome::Failed, "its source is missing")],
    };
    let mut results = Vec::new();
    let mut reached = false;
    for trial in trials {
        let at = Tried {
            host: Some(trial.destination.authority(Scheme::Https)),
            place: Some(trial.place.clone()),
            ..tried(Outcome::Skipped, "")
        };
        let way = match &trial.way {
            Ok(way) => way,
            Err(why) => {
                results.push(Tried { detail: Some(why.clone()), ..at });
                continue;
            }
        };
        reached = true;
        drop(seen.lock().unwrap_or_else(PoisonError::into_inner).take());
        let sent =
            tokio::time::timeout(PATIENCE, send(trial, way, &sealed.token, session, client)).await;
        let arrived = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        results.push(match sent {
            Ok(Ok(answer)) => {
                let of = |name: &SecretName| value_of(session, values, name);
                let arrived = arrived.map(|seen| Arrived::of(trial, way, &seen, sealed, of));
                judge(at, &trial.place, arrived, echo(sealed, value, &answer), &answer)
            }
            Ok(Err(error)) => {
                Tried { result: Outcome::Failed, detail: Some(error.to_string()), ..at }
            }
            Err(_elapsed) => {
                Tried { result: Outcome::Failed, detail: Some("no answer".to_owned()), ..at }
            }
        });
    }
    if !reached {
        let why = "none of the hosts that it is bound to can be reached with it";
        results.push(tried(Outcome::Failed, why));
    }
    results
}

/// The value of any secret of the session, as it was fetched.
fn value_of(session: &Session, values: &Values, name: &SecretName) -> Option<Arc<SecretValue>> {
    let store = session.by_name(name)?.bound.store.clone();
    values.get(&(store, name.clone()))?.as_ref().ok().cloned()
}

async fn send(
    trial: &Trial,
    way: &Way,
    token: &SealedToken,
    session: &Session,
    client: &Client,
) -> Result<Answer, Failure> {
    let origin = trial.destination.authority(Scheme::Https);
    let path = match trial.place {
        Place::Path => format!("{}{}{}", way.path, token.as_str(), way.rest),
        Place::Header(_)
        | Place::Basic
        | Place::Query
        | Place::Body(_)
        | Place::WebSocket
        | Place::Injected(_)
        | Place::Hmac(_)
        | Place::Aws(_) => way.path.clone(),
    };
    let others = |name: &SecretName| {
        session.by_name(name).map_or_else(String::new, |it| it.token.as_str().to_owned())
    };
    let request = trial.place.request(&way.method, &origin, &path, token.as_str(), others)?;
    if trial.place == Place::WebSocket {
        return client.converse(request, format!("{MESSAGE}{}", token.as_str()).as_bytes()).await;
    }
    client.send(request).await
}

fn judge(at: Tried, place: &Place, arrived: Option<Arrived>, echo: Echo, answer: &Answer) -> Tried {
    let Some(arrived) = arrived else {
        let reason = answer.reason().unwrap_or_else(|| answer.status.to_string());
        let detail = Some(format!("{reason}: {}", answer.detail()));
        return Tried {
            result: Outcome::Failed,
            arrived: Some("nothing".to_owned()),
            detail,
            ..at
        };
    };
    let expected = if *place == Place::WebSocket { 101 } else { 200 };
    let result = if arrived.is_right && echo != Echo::Leaked && answer.status == expected {
        Outcome::Ok
    } else {
        Outcome::Failed
    };
    let detail = (answer.status != expected)
        .then(|| format!("the answer did not come back: {} {}", answer.status, answer.detail()));
    Tried { result, arrived: Some(arrived.what), echo: Some(echo), detail, ..at }
}

/// What the upstream received in a place.
struct Arrived {
    /// As an operator may read it.
    what: String,
    is_right: bool,
}

impl Arrived {
    fn of(
        trial: &Trial,
        way: &Way,
        seen: &Seen,
        sealed: &SealedSecret,
        value: impl Fn(&SecretName) -> Option<Arc<SecretValue>>,
    ) -> Self {
        if let Place::Aws(signing) = &trial.place {
            let checked = signing.check(&way.method, seen, value);
            let is_right = checked.is_ok();
            let what =
                checked.map_or_else(str::to_owned, |()| "a signature that is right".to_owned());
            return Self { what, is_right };
        }
        let Some(read) = trial.place.read(seen, &way.path) else {
            return Self { what: "nothing in this place".to_owned(), is_right: false };
        };
        if let Place::Hmac(rule) = &trial.place
            && is_signature(&read, rule)
        {
            let what = format!("a signature ({} characters)", read.len());
            return Self { what, is_right: true };
        }
        let is_value = SecretValue::new(read.clone())
            .is_ok_and(|read| value(&sealed.bound.name).is_some_and(|value| read.is(&value)));
        let what = if is_value {
            masked(&read)
        } else if read == sealed.token.as_str().as_bytes() {
            "the sealed token itself".to_owned()
        } else {
            "something else".to_owned()
        };
        let is_right = is_value && !matches!(trial.place, Place::Hmac(_));
        Self { what, is_right }
    }
}

/// Whether the answer holds the value in any form in which the proxy hides it.
fn echo(sealed: &SealedSecret, value: &Arc<SecretValue>, answer: &Answer) -> Echo {
    if value.len() < SecretValue::SEARCHED_FROM {
        return Echo::NotSearched;
    }
    let needles = Needles::new(&[(sealed.token.clone(), value.clone())]);
    let in_headers = answer.headers.values().any(|field| needles.is_in(field.as_bytes()));
    if in_headers || needles.is_in(answer.body.as_bytes()) { Echo::Leaked } else { Echo::Sealed }
}

/// A value as an operator may see it: enough to know it again, too little to use it.
fn masked(value: &[u8]) -> String {
    let start = if value.len() >= 20 { value.get(..4).unwrap_or_default() } else { &[] };
    let plain = start.iter().all(u8::is_ascii_graphic);
    let start = if plain { String::from_utf8_lossy(start) } else { "".into() };
    format!("the value ({start}…, {} bytes)", value.len())
}

/// Remembers the request, and answers with all of it.
fn respond(seen: Arc<Mutex<Option<Seen>>>) -> Respond {
    Arc::new(move |head: &Parts, body: &Bytes| {
        let request = Seen::of(head, body);
        let mut echo = format!("{} {}\n", head.method, request.target).into_bytes();
        let mut first = None;
        for (name, value) in &request.headers {
            echo.extend_from_slice(name.as_str().as_bytes());
            echo.extend_from_slice(b": ");
            echo.extend_from_slice(value.as_bytes());
            echo.push(b'\n');
            if *name != http::header::HOST {
                first.get_or_insert_with(|| value.clone());
            }
        }
        echo.push(b'\n');
        echo.extend_from_slice(body);
        let mut answer = Response::new(Full::from(echo));
        let field = first.unwrap_or_else(|| HeaderValue::from_static("(none)"));
        answer.headers_mut().insert(HeaderName::from_static("x-echo"), field);
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
        answer
    })
}
