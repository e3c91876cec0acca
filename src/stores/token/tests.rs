//! Access tokens on a paused clock, from an endpoint that answers from a list.

use tokio::time::{advance, sleep};

use super::super::{LiveSecret, Posting};
use super::*;
use crate::secret::SourceSpec;
use crate::shutdown::Tasks;
use crate::stores::PostForm;

/// Each answer's status and body; the last one repeats.
#[derive(Clone, Default)]
struct Endpoint(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: VecDeque<(u16, String)>,
    takes: Duration,
    asked: Vec<(Option<String>, String)>,
}

impl Endpoint {
    fn new(answers: &[(u16, &str)]) -> Self {
        let answers = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        Self(Arc::new(Mutex::new(Script { answers, ..Script::default() })))
    }

    fn slow(self, takes: Duration) -> Self {
        self.0.lock().unwrap().takes = takes;
        self
    }

    /// Authorization and form of every request.
    fn asked(&self) -> Vec<(Option<String>, String)> {
        self.0.lock().unwrap().asked.clone()
    }

    fn secret(&self, spec: TokenSource) -> Arc<LiveSecret> {
        let endpoints = TokenEndpoints::default();
        endpoints.connect(Box::new(self.clone()));
        let spec = SourceSpec::Token(Box::new(spec));
        LiveSecret::new("KEY".parse().unwrap(), spec, true, &endpoints, Tasks::new().1)
    }
}

impl PostForm for Endpoint {
    fn post(&self, request: TokenRequest) -> Posting<'_> {
        Box::pin(async move {
            let takes = {
                let mut script = self.0.lock().unwrap();
                let form = String::from_utf8(request.body.to_vec()).unwrap();
                let authorization = request.authorization.map(|value| {
                    assert!(value.is_sensitive());
                    value.to_str().unwrap().to_owned()
                });
                script.asked.push((authorization, form));
                script.takes
            };
            sleep(takes).await;
            let mut script = self.0.lock().unwrap();
            let answers = &mut script.answers;
            let next =
                if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
            Ok(TokenAnswer { status: next.0, body: Zeroizing::new(next.1.into_bytes()) })
        })
    }
}

const SECRET: &str = "client-secret-5a4b/3c+2d";

fn literal(text: &str) -> SourceSpec {
    SourceSpec::Value(Arc::new(SecretValue::new(text.into()).unwrap()))
}

fn credentials() -> TokenSource {
    TokenSource {
        url: "https://login.example.com/token".parse().unwrap(),
        client_id: "tollgate app".to_owned(),
        client_secret: Some(literal(SECRET)),
        client_auth: ClientAuth::Basic,
        grant: Grant::ClientCredentials { audience: None },
        scopes: Vec::new(),
        timeout: Duration::from_secs(10),
    }
}

fn refresh(source: SourceSpec) -> TokenSource {
    TokenSource { client_secret: None, grant: Grant::RefreshToken(source), ..credentials() }
}

fn token(value: &str, expires_in: u64) -> String {
    format!(
        "{{\"access_token\":\"{value}\",\"token_type\":\"bearer\",\"expires_in\":{expires_in}}}"
    )
}

fn text(value: &SecretValue) -> &str {
    std::str::from_utf8(value.expose()).unwrap()
}

fn held(live: &LiveSecret) -> Vec<String> {
    live.held().iter().map(|value| text(value).to_owned()).collect()
}

async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_in_use_is_replaced_before_it_expires_and_nobody_waits() {
    let (first, second) = (token("first-token-1", 1000), token("second-token-2", 1000));
    let endpoint = Endpoint::new(&[(200, &first), (200, &second)]);
    let live = endpoint.secret(credentials());
    assert_eq!(text(&live.value().await.unwrap()), "first-token-1");
    advance(Duration::from_secs(770)).await;
    assert_eq!(text(&live.fresh().unwrap()), "first-token-1");
    settle().await;
    assert_eq!(endpoint.asked().len(), 1);
    advance(Duration::from_secs(20)).await;
    assert_eq!(text(&live.fresh().unwrap()), "first-token-1", "good for 970 s");
    settle().await;
    assert_eq!(text(&live.fresh().unwrap()), "second-token-2");
    assert_eq!(endpoint.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_never_used_past_its_expiry_also_while_the_endpoint_fails() {
    let endpoint = Endpoint::new(&[(200, &token("first-token-1", 100)), (500, "")]);
    let live = endpoint.secret(credentials());
    let start = Instant::now();
    live.value().await.unwrap();
    while start.elapsed() < Duration::from_secs(89) {
        assert_eq!(text(&live.value().await.unwrap()), "first-token-1", "{:?}", start.elapsed());
        settle().await;
        advance(Duration::from_millis(500)).await;
    }
    advance(Duration::from_secs(2)).await;
    assert_eq!(live.value().await.unwrap_err().fault, Fault::Refused(500, None));
    assert!(live.fresh().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_time_that_the_endpoint_took_is_part_of_a_tokens_life() {
    let endpoint =
        Endpoint::new(&[(200, &token("first-token-1", 10))]).slow(Duration::from_secs(8));
    let live = endpoint.secret(credentials());
    live.value().await.unwrap();
    advance(Duration::from_millis(900)).await;
    assert!(live.fresh().is_some());
    advance(Duration::from_millis(200)).await;
    assert!(live.fresh().is_none(), "9 s of which 8 had passed");
}

#[tokio::test(start_paused = true)]
async fn twenty_requests_at_once_ask_once() {
    let endpoint =
        Endpoint::new(&[(200, &token("first-token-1", 100))]).slow(Duration::from_secs(2));
    let live = endpoint.secret(credentials());
    let values = futures_util::future::join_all((0..20).map(|_| live.value())).await;
    assert!(values.iter().all(|value| text(value.as_ref().unwrap()) == "first-token-1"));
    assert_eq!(endpoint.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_is_waited_for_no_longer_than_its_timeout() {
    let endpoint = Endpoint::new(&[(200, "")]).slow(Duration::from_secs(1_000));
    let live = endpoint.secret(credentials());
    let error = live.value().await.unwrap_err();
    assert_eq!(error.fault, Fault::Late(Duration::from_secs(10)));
    assert!(error.to_string().contains("the token endpoint https://login.example.com/token"));
}

#[tokio::test(start_paused = true)]
async fn requests_are_written_as_the_standard_says() {
    let endpoint = Endpoint::new(&[(200, &token("first-token-1", 100))]);
    let scopes = vec!["read".to_owned(), "https://api.example.com/x".to_owned()];
    let audience = Some("https://api.example.com/".to_owned());
    let spec =
        TokenSource { scopes, grant: Grant::ClientCredentials { audience }, ..credentials() };
    endpoint.secret(spec).value().await.unwrap();
    let body = TokenSource { client_auth: ClientAuth::Body, ..credentials() };
    endpoint.secret(body).value().await.unwrap();
    endpoint.secret(refresh(literal("rt-1234567890"))).value().await.unwrap();
    let basic = STANDARD.encode("tollgate%20app:client-secret-5a4b%2F3c%2B2d");
    let form = |text: &str| text.to_owned();
    assert_eq!(
        endpoint.asked(),
        [
            (
                Some(format!("Basic {basic}")),
                form(
                    "grant_type=client_credentials&audience=https%3A%2F%2Fapi.example.com%2F&scope=read%20https%3A%2F%2Fapi.example.com%2Fx"
                ),
            ),
            (
                None,
                form(
                    "grant_type=client_credentials&client_id=tollgate%20app&client_secret=client-secret-5a4b%2F3c%2B2d"
                ),
            ),
            (
                None,
                form(
                    "grant_type=refresh_token&refresh_token=rt-1234567890&client_id=tollgate%20app"
                ),
            ),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_rotated_refresh_token_is_used_until_the_operator_writes_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("refresh");
    std::fs::write(&file, "configured-rt-0\n").unwrap();
    let rotating = |nth: u32| {
        format!(
            "{{\"access_token\":\"access-token-{nth}\",\"expires_in\":\"100\",\"refresh_token\":\"rotated-rt-{nth}\"}}"
        )
    };
    let endpoint = Endpoint::new(&[
        (200, &rotating(1)),
        (200, &rotating(2)),
        (200, &token("access-token-3", 100)),
        (200, &rotating(4)),
    ]);
    let live = endpoint.secret(refresh(SourceSpec::File(file.clone())));
    for _ in 0..4 {
        live.value().await.unwrap();
        advance(Duration::from_secs(101)).await;
    }
    std::fs::write(&file, "configured-rt-9\n").unwrap();
    live.value().await.unwrap();
    let sent: Vec<_> = endpoint
        .asked()
        .iter()
        .map(|(_, form)| form.split('&').nth(1).unwrap().replace("refresh_token=", ""))
        .collect();
    assert_eq!(
        sent,
        ["configured-rt-0", "rotated-rt-1", "rotated-rt-2", "rotated-rt-2", "configured-rt-9"]
    );
    let held = held(&live);
    for value in ["configured-rt-0", "rotated-rt-1", "rotated-rt-4", "configured-rt-9"] {
        assert!(held.iter().any(|held| held == value), "{value} may not be shown either");
    }
}

#[tokio::test(start_paused = true)]
async fn what_buys_a_token_is_hidden_also_when_the_endpoint_refuses() {
    let endpoint = Endpoint::new(&[(401, "{\"error\":\"invalid_client\"}")]);
    let live = endpoint.secret(credentials());
    let before = live.version();
    let error = live.value().await.unwrap_err();
    assert_eq!(error.fault, Fault::Refused(401, Some("invalid_client")));
    assert!(error.to_string().ends_with("it answered 401 (invalid_client)"), "{error}");
    assert_eq!(held(&live), [SECRET]);
    assert_ne!(live.version(), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_an_error_that_repeats_nothing_of_the_answer() {
    for (answer, fault) in [
        ("<html>sk-live-in-a-page</html>", Fault::NotAToken),
        ("{\"token\":\"sk-live-12345\"}", Fault::NotAToken),
        ("[\"sk-live-12345\"]", Fault::NotAToken),
        ("{\"access_token\":7}", Fault::NotAToken),
        ("{\"access_token\":\"\"}", Fault::Value(crate::secret::ValueError::Empty)),
        ("{\"access_token\":\"sk-live-1\\n2345\"}", Fault::NotForHeader),
    ] {
        let error = Endpoint::new(&[(200, answer)]).secret(credentials()).value().await;
        let error = error.unwrap_err();
        assert_eq!(error.fault, fault, "{answer}");
        assert!(!format!("{error} {error:?}").contains("sk-live"), "{error}");
    }
    let code = "{\"error\":\"sk-live-12345\"}";
    let error = Endpoint::new(&[(400, code)]).secret(credentials()).value().await.unwrap_err();
    assert_eq!(error.fault, Fault::Refused(400, None));
}

#[tokio::test(start_paused = true)]
async fn a_command_without_a_network_says_so() {
    let spec = SourceSpec::Token(Box::new(credentials()));
    let endpoints = TokenEndpoints::default();
    let live = LiveSecret::new("KEY".parse().unwrap(), spec, true, &endpoints, Tasks::new().1);
    assert_eq!(live.value().await.unwrap_err().fault, Fault::Offline);
}

#[test]
fn lives_are_read_in_every_way_that_endpoints_write_them() {
    for (written, good) in [
        ("3600", 3_570),
        ("\"3600\"", 3_570),
        ("3600.5", 3_570),
        ("10", 9),
        ("0", 0),
        ("-5", 270),
        ("\"soon\"", 270),
        ("null", 270),
        ("18446744073709551615", 86_370),
    ] {
        let body = format!("{{\"access_token\":\"a-token-12345\",\"expires_in\":{written}}}");
        let answer = TokenAnswer { status: 200, body: Zeroizing::new(body.into_bytes()) };
        let read = Granted::read(&answer).unwrap();
        assert_eq!(read.good().as_secs(), good, "{written}");
    }
}
