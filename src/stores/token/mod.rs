//! An access token from an OAuth 2 token endpoint: fetched before it is needed again, and nothing that buys it ever leaves.
//!
//! A refresh token that the endpoint replaces is kept in memory; the configured one counts again when its own source changes, and after a
//! restart.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::endpoint::{TokenAnswer, TokenEndpoints, TokenRequest};
use super::{Fault, Fetched, Fetching, Lifetime, Source, Stamp, open};
use crate::secret::{ClientAuth, Grant, SecretValue, TokenSource, TokenUrl};

pub(super) struct AccessToken {
    url: TokenUrl,
    client_id: String,
    client_secret: Option<Arc<dyn Source>>,
    client_auth: ClientAuth,
    grant: Exchanged,
    scopes: Vec<String>,
    timeout: Duration,
    endpoints: TokenEndpoints,
    state: Mutex<State>,
}

/// What is exchanged for a token.
enum Exchanged {
    Credentials { audience: Option<String> },
    Refresh(Arc<dyn Source>),
}

struct State {
    /// How long the last token is good for.
    good: Duration,
    rotated: Option<Rotated>,
    /// What was sent or received besides access tokens, the oldest first: an answer to the sandbox may not hold it either.
    bought_with: VecDeque<Arc<SecretValue>>,
}

/// A refresh token that took the place of the configured one.
struct Rotated {
    configured: Arc<SecretValue>,
    current: Arc<SecretValue>,
}

/// How long a token is used whose endpoint does not say.
const UNSTATED: Duration = Duration::from_secs(300);
/// The longest that any token is used.
const LONGEST: Duration = Duration::from_secs(86_400);
/// The shortest: an endpoint whose tokens are born expired is not asked without a pause.
const LEAST: Duration = Duration::from_secs(1);
/// A token is not used in the last moments of its life: it has to reach the upstream.
const MARGIN: Duration = Duration::from_secs(30);
/// How many refresh tokens and client secrets are remembered.
const REMEMBERED: usize = 16;

impl AccessToken {
    pub(super) fn new(spec: TokenSource, endpoints: TokenEndpoints) -> Self {
        let source = |spec| open(spec, &endpoints).1;
        Self {
            client_secret: spec.client_secret.map(source),
            grant: match spec.grant {
                Grant::ClientCredentials { audience } => Exchanged::Credentials { audience },
                Grant::RefreshToken(spec) => Exchanged::Refresh(open(spec, &endpoints).1),
            },
            url: spec.url,
            client_id: spec.client_id,
            client_auth: spec.client_auth,
            scopes: spec.scopes,
            timeout: spec.timeout,
            endpoints,
            state: Mutex::new(State {
                good: UNSTATED,
                rotated: None,
                bought_with: VecDeque::new(),
            }),
        }
    }

    async fn ask(&self) -> Result<Fetched, Fault> {
        let secret = match &self.client_secret {
            Some(source) => Some(self.read(&**source).await?),
            None => None,
        };
        let configured = match &self.grant {
            Exchanged::Refresh(source) => Some(self.read(&**source).await?),
            Exchanged::Credentials { .. } => None,
        };
        let refresh = configured.as_ref().map(|configured| self.current(configured));
        let request = self.request(secret.as_deref(), refresh.as_deref());
        let asked = Instant::now();
        let answer = self.endpoints.post(request).await?;
        let granted = Granted::read(&answer)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.good = granted.good().saturating_sub(asked.elapsed()).max(LEAST);
        if let (Some(current), Some(configured)) = (granted.refresh, configured) {
            state.remember(&current);
            state.rotated = Some(Rotated { configured, current });
        }
        Ok(Fetched::Value(granted.access, None))
    }

    /// Fetches what buys the token, and remembers it.
    async fn read(&self, source: &dyn Source) -> Result<Arc<SecretValue>, Fault> {
        let Fetched::Value(value, _) = source.fetch(None).await? else {
            return Err(Fault::NoAnswer);
        };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).remember(&value);
        Ok(value)
    }

    /// The refresh token that counts: the last one received, unless the operator has written another since.
    fn current(&self, configured: &Arc<SecretValue>) -> Arc<SecretValue> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let rotated = state.rotated.as_ref().filter(|rotated| rotated.configured.is(configured));
        rotated.map_or_else(|| configured.clone(), |rotated| rotated.current.clone())
    }

    fn request(&self, secret: Option<&SecretValue>, refresh: Option<&SecretValue>) -> TokenRequest {
        let mut form = Form::default();
        match (&self.grant, refresh) {
            (Exchanged::Refresh(_), Some(token)) => {
                form.add("grant_type", b"refresh_token");
                form.add("refresh_token", token.expose());
            }
            (Exchanged::Credentials { audience: Some(audience) }, _) => {
                form.add("grant_type", b"client_credentials");
                form.add("audience", audience.as_bytes());
            }
            (Exchanged::Credentials { audience: None } | Exchanged::Refresh(_), _) => {
                form.add("grant_type", b"client_credentials");
            }
        }
        if !self.scopes.is_empty() {
            form.add("scope", self.scopes.join(" ").as_bytes());
        }
        let authorization = match (self.client_auth, secret) {
            (ClientAuth::Basic, Some(secret)) => Some(basic(&self.client_id, secret)),
            (ClientAuth::Body, Some(secret)) => {
                form.add("client_id", self.client_id.as_bytes());
                form.add("client_secret", secret.expose());
                None
            }
            (_, None) => {
                form.add("client_id", self.client_id.as_bytes());
                None
            }
        };
        TokenRequest { url: self.url.clone(), authorization, body: form.0 }
    }
}

impl Source for AccessToken {
    fn fetch(&self, _since: Option<Stamp>) -> Fetching<'_> {
        Box::pin(async {
            match tokio::time::timeout(self.timeout, self.ask()).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => Err(Fault::Late(self.timeout)),
            }
        })
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime::Exactly(self.state.lock().unwrap_or_else(PoisonError::into_inner).good)
    }

    fn patience(&self) -> Duration {
        self.timeout + Duration::from_secs(1)
    }

    fn also_held(&self) -> Vec<Arc<SecretValue>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bought_with.iter().cloned().collect()
    }
}

impl State {
    fn remember(&mut self, value: &Arc<SecretValue>) {
        self.bought_with.retain(|known| !known.is(value));
        if self.bought_with.len() >= REMEMBERED {
            self.bought_with.pop_front();
        }
        self.bought_with.push_back(value.clone());
    }
}

/// What a token endpoint granted (RFC 6749 §5.1).
struct Granted {
    access: Arc<SecretValue>,
    refresh: Option<Arc<SecretValue>>,
    expires_in: Option<Duration>,
}

#[derive(serde::Deserialize)]
struct Written {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl Granted {
    fn read(answer: &TokenAnswer) -> Result<Self, Fault> {
        if answer.status != 200 {
            return Err(Fault::Refused(answer.status, refusal(&answer.body)));
        }
        let written: Written =
            serde_json::from_slice(&answer.body).map_err(|_error| Fault::NotAToken)?;
        let value = |text: String| SecretValue::new(text.into_bytes()).map(Arc::new);
        let expires_in = written.expires_in.as_ref().and_then(seconds);
        let access = value(written.access_token)?;
        let refresh = written.refresh_token.filter(|token| !token.is_empty());
        Ok(Self { access, refresh: refresh.map(value).transpose()?, expires_in })
    }

    /// How long the token is used: less than the endpoint says.
    fn good(&self) -> Duration {
        let stated = self.expires_in.unwrap_or(UNSTATED).min(LONGEST);
        stated.saturating_sub(MARGIN.min(stated / 10))
    }
}

/// A number of seconds, also as the string that some endpoints write.
fn seconds(written: &serde_json::Value) -> Option<Duration> {
    let number = written.as_u64().or_else(|| written.as_str()?.parse().ok());
    let rounded = || written.as_f64().filter(|seconds| (0.0..1e9).contains(seconds));
    number.map(Duration::from_secs).or_else(|| rounded().map(Duration::from_secs_f64))
}

/// The error code of a refusal, if it is one of RFC 6749 §5.2: nothing else of what an endpoint says is repeated.
fn refusal(body: &[u8]) -> Option<&'static str> {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
    }
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    const CODES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    CODES.into_iter().find(|code| *code == refusal.error)
}

/// `application/x-www-form-urlencoded`, in memory that is wiped.
struct Form(Zeroizing<Vec<u8>>);

/// More than any form takes: a buffer that grows leaves copies behind.
const FORM: usize = 16 * 1024;

impl Default for Form {
    fn default() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(FORM)))
    }
}

/// What is not escaped in a form.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Form {
    fn add(&mut self, name: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
        self.escaped(value);
    }

    fn escaped(&mut self, value: &[u8]) {
        for piece in percent_encode(value, &PLAIN) {
            self.0.extend_from_slice(piece.as_bytes());
        }
    }
}

/// Both parts are form-encoded first (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &SecretValue) -> HeaderValue {
    let mut pair = Form::default();
    pair.escaped(client_id.as_bytes());
    pair.0.push(b':');
    pair.escaped(secret.expose());
    let encoded = Zeroizing::new(STANDARD.encode(&*pair.0));
    let written = Zeroizing::new(format!("Basic {}", *encoded));
    let mut value =
        HeaderValue::from_str(&written).unwrap_or_else(|_error| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests;
