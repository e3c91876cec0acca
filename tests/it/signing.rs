//! Requests that are signed with secrets that never travel.

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::Request;
use hyper::body::Frame;

use crate::support::{RequestRecord, Tollgate, Upstream, full, streamed};

const AWS: &str = r#"
secretStores:
  aws:
    egressAllowlist: ["*.amazonaws.com", other.example.com]
    secrets:
      AWS_ACCESS_KEY_ID:
        from: { value: $ID }
        allowedHosts: ["*.amazonaws.com"]
        placeholder: "AKIA{sealed:16:A-Z2-7}"
      AWS_SECRET_ACCESS_KEY:
        from: { value: $SECRET }
        allowedHosts: ["*.amazonaws.com"]
        sign: aws-sigv4
      OTHER_ID: { from: { value: $OTHER }, allowedHosts: ["*.amazonaws.com"] }
sandboxes: { sb-test: { secretStores: [aws] } }
"#;
const HOST: &str = "bucket.s3.amazonaws.com";
const URL: &str = "https://bucket.s3.amazonaws.com/some%20key?b=2&a=1";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const STALE: &str = "20130524T000000Z";
const OLD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// With a session token beside the pair.
fn temporary() -> String {
    let token = "AWS_SESSION_TOKEN: { from: { value: $SESSION }, allowedHosts: [\"*.amazonaws.com\"] }\n      OTHER_ID";
    AWS.replace("OTHER_ID", token)
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data))
}

fn mac(key: &[u8], data: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes()).as_ref().to_vec()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// `Authorization` as the sandbox would sign; the signature does not matter, and must not.
fn authorization(id: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={id}/20130524/eu-west-1/{service}/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={OLD}"
    )
}

fn request(id: &str, payload: &str, date: &str) -> http::request::Builder {
    Request::put(URL)
        .header("authorization", authorization(id, "s3"))
        .header("x-amz-date", date)
        .header("x-amz-content-sha256", payload)
}

/// What a server does: takes the request apart, and signs it again.
struct Server<'r> {
    record: &'r RequestRecord,
    secret: String,
}

impl Server<'_> {
    fn key(&self, scope: &str) -> Vec<u8> {
        let first = format!("AWS4{}", self.secret).into_bytes();
        scope.split('/').fold(first, |key, part| mac(&key, part))
    }

    fn sign(&self, scope: &str, algorithm: &str, date: &str, rest: &str) -> String {
        hex(mac(&self.key(scope), &format!("{algorithm}\n{date}\n{scope}\n{rest}")))
    }

    /// Checks the field; its access key id, scope, date and signature.
    #[track_caller]
    fn verify(&self, canonical_path: &str, query: &str) -> (String, String, String, String) {
        let field = self.record.header("authorization").unwrap();
        let parts: Vec<&str> =
            field.strip_prefix("AWS4-HMAC-SHA256 ").unwrap().split(", ").collect();
        let part = |nth: usize| parts[nth].split_once('=').unwrap().1;
        let (id, scope) = part(0).split_once('/').unwrap();
        let date = self.record.header("x-amz-date").unwrap();
        let header = |name: &str| match name {
            "host" => HOST.to_owned(),
            name => self.record.header(name).unwrap(),
        };
        let headers: String =
            part(1).split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
        let payload = self.record.header("x-amz-content-sha256").unwrap();
        let canonical = format!(
            "{}\n{canonical_path}\n{query}\n{headers}\n{}\n{payload}",
            self.record.method,
            part(1),
        );
        let expected = self.sign(scope, "AWS4-HMAC-SHA256", &date, &sha256(canonical.as_bytes()));
        assert_eq!(part(2), expected, "{canonical}");
        (id.to_owned(), scope.to_owned(), date, expected)
    }
}

fn server<'r>(tollgate: &Tollgate, record: &'r RequestRecord) -> Server<'r> {
    Server { record, secret: tollgate.value("SECRET") }
}

#[tokio::test]
async fn a_request_signed_with_sealed_keys_arrives_signed_with_the_real_ones() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    assert!(sandbox.token("AWS_ACCESS_KEY_ID").starts_with("AKIA"));
    let body = "x".repeat(3_000_000);
    let hash = sha256(body.as_bytes());
    let date = now();
    let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), &hash, &date).body(full(body.clone()));
    assert_eq!(sandbox.send(sent.unwrap()).await.status, 200);
    let record = upstream.request();
    let (id, scope, signed, _) = server(&tollgate, &record).verify("/some%20key", "a=1&b=2");
    assert_eq!(id, tollgate.value("ID"));
    assert_eq!(signed, date, "a date near the present is kept");
    assert_eq!(scope, format!("{}/eu-west-1/s3/aws4_request", &date[..8]));
    assert_eq!(record.target, "/some%20key?b=2&a=1");
    assert!(record.body == body, "the body streams as it came");
    let events = tollgate.finish().await;
    let event = events.iter().find(|event| event["method"] == "PUT").unwrap();
    assert_eq!(event["locations"][0], "sign:aws-sigv4");
    assert_eq!(event["secrets"], serde_json::json!(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]));
}

#[tokio::test]
async fn the_secret_access_key_never_reaches_an_upstream() {
    let upstream = Upstream::https(HOST).h1_only().answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), EMPTY, STALE).body(full("")).unwrap();
    assert_eq!(sandbox.send(sent).await.status, 200);
    let bearer = format!("Bearer {}", sandbox.token("AWS_SECRET_ACCESS_KEY"));
    let answer = sandbox.get_with(URL, "authorization", &bearer).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    let received = String::from_utf8_lossy(&upstream.received()).into_owned();
    assert!(received.contains(&tollgate.value("ID")));
    assert!(!received.contains(&tollgate.value("SECRET")));
    assert!(!received.contains(OLD), "the sandbox's own signature was forwarded");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_stale_date_becomes_the_present() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let before = now();
    for date in [STALE, "99991231T235959Z", "nonsense"] {
        let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), "UNSIGNED-PAYLOAD", date);
        assert_eq!(sandbox.send(sent.body(full("body")).unwrap()).await.status, 200);
        let record = upstream.requests().pop().unwrap();
        let (_, _, signed, _) = server(&tollgate, &record).verify("/some%20key", "a=1&b=2");
        assert!(signed >= before && signed <= now(), "{date}: {signed}");
        assert_eq!(record.header("x-amz-content-sha256").unwrap(), "UNSIGNED-PAYLOAD");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_payload_without_a_hash_is_read_within_the_limit() {
    let upstream = Upstream::https("sts.amazonaws.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let send = |body: String| {
        let request = Request::post("https://sts.amazonaws.com/")
            .header("authorization", authorization(sandbox.token("AWS_ACCESS_KEY_ID"), "sts"))
            .header("x-amz-date", STALE)
            .body(full(body))
            .unwrap();
        sandbox.send(request)
    };
    let body = "Action=GetCallerIdentity&Version=2011-06-15";
    assert_eq!(send(body.to_owned()).await.status, 200);
    let record = upstream.request();
    assert_eq!(record.body, body);
    assert_eq!(
        record.header("x-amz-content-sha256"),
        None,
        "a field that the sandbox did not send"
    );
    let date = record.header("x-amz-date").unwrap();
    let canonical = format!(
        "POST\n/\n\nhost:sts.amazonaws.com\nx-amz-date:{date}\n\nhost;x-amz-date\n{}",
        sha256(body.as_bytes())
    );
    let scope = format!("{}/eu-west-1/sts/aws4_request", &date[..8]);
    let signature = server(&tollgate, &record).sign(
        &scope,
        "AWS4-HMAC-SHA256",
        &date,
        &sha256(canonical.as_bytes()),
    );
    let field = record.header("authorization").unwrap();
    assert!(field.ends_with(&format!("Signature={signature}")), "{field}");

    let answer = send("x".repeat(2 << 20)).await;
    assert_eq!((answer.status, answer.reason()), (413, "limit_exceeded"));
    assert!(answer.json()["hint"].as_str().unwrap().contains("limits.bufferedBody"));
    assert_eq!(upstream.requests().len(), 1);
    tollgate.finish().await;
}

#[tokio::test]
async fn signed_chunks_are_signed_anew_while_they_stream() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let chunks: Vec<Vec<u8>> = (0..40u8).map(|nth| vec![b'a' + nth % 26; 64 * 1024]).collect();
    let wire = |signature: &mut dyn FnMut(&[u8]) -> String| {
        let mut wire = Vec::new();
        for chunk in chunks.iter().map(Vec::as_slice).chain([&[][..]]) {
            wire.extend(
                format!("{:x};chunk-signature={}\r\n", chunk.len(), signature(chunk)).bytes(),
            );
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        wire
    };
    let sent = wire(&mut |_| OLD.to_owned());
    let pieces: Vec<_> =
        sent.chunks(10_007).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect();
    let head =
        request(sandbox.token("AWS_ACCESS_KEY_ID"), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", STALE);
    let head = head
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", 40 * 64 * 1024)
        .header("content-length", sent.len());
    let body = streamed(futures_util::stream::iter(pieces));
    assert_eq!(sandbox.send(head.body(body).unwrap()).await.status, 200);
    let record = upstream.request();
    let server = server(&tollgate, &record);
    let (_, scope, date, seed) = server.verify("/some%20key", "a=1&b=2");
    let mut before = seed;
    let expected = wire(&mut |chunk| {
        let rest = format!("{before}\n{EMPTY}\n{}", sha256(chunk));
        before = server.sign(&scope, "AWS4-HMAC-SHA256-PAYLOAD", &date, &rest);
        before.clone()
    });
    assert!(record.body == expected, "the chunks are not those of the new signature");
    assert_eq!(record.header("content-length").unwrap(), sent.len().to_string());
    tollgate.finish().await;
}

#[tokio::test]
async fn chunks_that_cannot_be_signed_cut_the_request() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let big = format!("200000;chunk-signature={OLD}\r\n{}", "a".repeat(1 << 21));
    for (body, status) in [("5\r\nhello\r\n0\r\n\r\n".to_owned(), 400), (big, 413)] {
        let payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
        let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), payload, STALE);
        let answer = sandbox.send(sent.body(full(body)).unwrap()).await;
        assert_eq!(answer.status, status);
    }
    assert!(upstream.requests().iter().all(|request| request.body.is_empty()));
    tollgate.finish().await;
}

#[tokio::test]
async fn the_session_token_is_added_or_replaced() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(&temporary(), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for sent in [None, Some(sandbox.token("AWS_SESSION_TOKEN"))] {
        let mut request = request(sandbox.token("AWS_ACCESS_KEY_ID"), EMPTY, STALE);
        if let Some(token) = sent {
            request = request.header("x-amz-security-token", token);
        }
        assert_eq!(sandbox.send(request.body(full("")).unwrap()).await.status, 200);
        let record = upstream.requests().pop().unwrap();
        assert_eq!(record.header("x-amz-security-token").unwrap(), tollgate.value("SESSION"));
        server(&tollgate, &record).verify("/some%20key", "a=1&b=2");
        assert!(record.header("authorization").unwrap().contains("x-amz-security-token"));
    }
    let stranger = request(sandbox.token("AWS_ACCESS_KEY_ID"), EMPTY, STALE)
        .header("x-amz-security-token", sandbox.token("AWS_SECRET_ACCESS_KEY"));
    let answer = sandbox.send(stranger.body(full("")).unwrap()).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_presigned_url_is_signed_anew() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(&temporary(), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let url = format!(
        "https://{HOST}/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F20130524%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date={STALE}&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Security-Token={}&response-content-type=text%2Fplain&X-Amz-Signature={OLD}",
        sandbox.token("AWS_ACCESS_KEY_ID"),
        sandbox.token("AWS_SESSION_TOKEN"),
    );
    let answer = sandbox.send(Request::get(&url).body(full("")).unwrap()).await;
    assert_eq!(answer.status, 200);
    let record = upstream.request();
    let query = record.target.strip_prefix("/key?").unwrap();
    let (unsigned, signature) = query.split_once("&X-Amz-Signature=").unwrap();
    let parameter = |name: &str| {
        let mut found =
            unsigned.split('&').filter_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        found.next().unwrap().replace("%2F", "/")
    };
    let date = parameter("X-Amz-Date");
    assert!(date.as_str() > STALE);
    assert_eq!(parameter("X-Amz-Expires"), "900", "a signature lives no longer than it must");
    let credential = parameter("X-Amz-Credential");
    let (id, scope) = credential.split_once('/').unwrap();
    assert_eq!(id, tollgate.value("ID"));
    assert_eq!(parameter("X-Amz-Security-Token"), tollgate.value("SESSION"));
    let mut sorted: Vec<&str> = unsigned.split('&').collect();
    sorted.sort_unstable();
    let canonical =
        format!("GET\n/key\n{}\nhost:{HOST}\n\nhost\nUNSIGNED-PAYLOAD", sorted.join("&"));
    let expected = server(&tollgate, &record).sign(
        scope,
        "AWS4-HMAC-SHA256",
        &date,
        &sha256(canonical.as_bytes()),
    );
    assert_eq!(signature, expected);
    assert_eq!(record.header("authorization"), None);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_signature_that_cannot_be_made_here_is_refused_and_says_why() {
    let upstream = Upstream::https(HOST).await;
    let other = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(AWS, &[&upstream, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let id = sandbox.token("AWS_ACCESS_KEY_ID");
    let good = authorization(id, "s3");
    for (url, field, hint) in [
        (URL, good.replace("HMAC-SHA256", "ECDSA-P256-SHA256"), "SigV4A"),
        (URL, authorization(sandbox.token("OTHER_ID"), "s3"), "sign: aws-sigv4"),
        (URL, authorization("osb_sealed_00000000000000000000000000000000", "s3"), "tollgate env"),
        (URL, good.replace("/s3/", "/"), "Credential=ID"),
        (URL, good.replace("Signature=", "Credential=x, Signature="), "Credential=ID"),
        ("https://other.example.com/", good.clone(), "allowedHosts"),
    ] {
        let answer = sandbox.get_with(url, "authorization", &field).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"), "{field}");
        let told = answer.json();
        assert!(told["hint"].as_str().unwrap().contains(hint), "{told}");
    }
    let unknown = request(id, "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", STALE);
    assert_eq!(sandbox.send(unknown.body(full("")).unwrap()).await.reason(), "secret_misdirected");
    assert_eq!(upstream.connections() + other.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_signature_with_keys_of_the_sandboxs_own_goes_on_as_it_came() {
    let upstream = Upstream::https(HOST).answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(AWS, &[&upstream]).await;
    let own = authorization("AKIAIOSFODNN7EXAMPLE", "s3");
    let answer = tollgate.sandbox("sb-test").get_with(URL, "authorization", &own).await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.request().header("authorization").unwrap(), own);
    tollgate.finish().await;
}

#[tokio::test]
async fn the_key_id_and_the_session_token_stand_in_signatures_only() {
    let upstream = Upstream::https(HOST).await;
    let tollgate = Tollgate::with(&temporary(), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let before_v4 = format!("AWS {}:c2lnbmF0dXJl", sandbox.token("AWS_ACCESS_KEY_ID"));
    for (name, field) in [
        ("authorization", before_v4.as_str()),
        ("x-amz-meta-note", sandbox.token("AWS_ACCESS_KEY_ID")),
        ("x-amz-meta-note", sandbox.token("AWS_SESSION_TOKEN")),
    ] {
        let answer = sandbox.get_with(URL, name, field).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"), "{name}");
    }
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn parts_can_be_asked_for_where_no_value_travels() {
    let alone = AWS
        .replace("OTHER_ID: { from: { value: $OTHER }, allowedHosts: [\"*.amazonaws.com\"] }", "");
    for (policy, range) in [(alone.as_str(), Some("bytes=0-8".to_owned())), (AWS, None)] {
        let upstream = Upstream::https(HOST)
            .answering(206, &[("content-range", "bytes 0-8/100")], "some part")
            .await;
        let tollgate = Tollgate::with(policy, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), EMPTY, STALE)
            .header("range", "bytes=0-8")
            .body(full(""));
        let answer = sandbox.send(sent.unwrap()).await;
        assert_eq!(answer.status, if range.is_some() { 206 } else { 502 });
        assert_eq!(upstream.request().header("range"), range);
        if range.is_some() {
            assert_eq!(answer.text(), "some part");
        }
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_value_in_a_part_is_masked_at_its_own_length() {
    let id = crate::support::fresh_value("id");
    let echo = format!("a part with {id} in it");
    let length = echo.len();
    let upstream =
        Upstream::https(HOST).answering(206, &[("content-range", "bytes 0-99/1000")], &echo).await;
    let alone = AWS
        .replace("OTHER_ID: { from: { value: $OTHER }, allowedHosts: [\"*.amazonaws.com\"] }", "");
    let tollgate = Tollgate::with(&alone.replace("$ID", &id), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), EMPTY, STALE).body(full("")).unwrap();
    let answer = sandbox.send(sent).await;
    assert_eq!((answer.status, answer.text().len()), (206, length));
    assert!(!answer.text().contains(&id));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_refused_signature_does_not_tell_the_session_token() {
    let session = crate::support::fresh_value("session");
    let spelled: Vec<String> = session.bytes().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>x-amz-security-token:{session}</CanonicalRequest><CanonicalRequestBytes>47 45 54 {}</CanonicalRequestBytes></Error>",
        spelled.join(" ")
    );
    for chunked in [false, true] {
        let text = text.clone();
        let upstream = Upstream::https(HOST)
            .handler(move |_request| {
                let body = match chunked {
                    false => crate::support::body(text.clone()),
                    true => streamed(futures_util::stream::iter([Frame::data(Bytes::from(
                        text.clone(),
                    ))])),
                };
                async move { http::Response::builder().status(403).body(body).unwrap() }
            })
            .await;
        let policy = temporary().replace("$SESSION", &session);
        let tollgate = Tollgate::with(&policy, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let sent = request(sandbox.token("AWS_ACCESS_KEY_ID"), EMPTY, STALE).body(full(""));
        let answer = sandbox.send(sent.unwrap()).await;
        assert_eq!(answer.status, 403);
        let expected = format!(
            "<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>x-amz-security-token:{}</CanonicalRequest><CanonicalRequestBytes></CanonicalRequestBytes></Error>",
            sandbox.token("AWS_SESSION_TOKEN")
        );
        assert_eq!(answer.text(), expected);
        tollgate.finish().await;
    }
}

const HMAC: &str = r#"
secretStores:
  exchange:
    egressAllowlist: [api.example.com]
    secrets:
      EXCHANGE_SECRET:
        from: { value: $KEY }
        allowedHosts: [api.example.com]
        sign: { scheme: hmac, header: x-signature, template: "{timestamp}|{method}|{target}|{body_sha256}", timestampHeader: x-timestamp, SHAPE }
sandboxes: { sb-test: { secretStores: [exchange] } }
"#;

#[tokio::test]
async fn an_hmac_is_written_into_its_header() {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    for (shape, prefix) in [("encoding: base64", ""), ("format: \"sha256={signature}\"", "sha256=")]
    {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(&HMAC.replace("SHAPE", shape), &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test").showing_credentials(true);
        let request = Request::post("https://api.example.com/orders?side=buy")
            .header("x-signature", "mine")
            .header("x-timestamp", "1")
            .body(full("amount=1"))
            .unwrap();
        assert_eq!(sandbox.send(request).await.status, 200);
        let record = upstream.request();
        let time = record.header("x-timestamp").unwrap();
        assert!(time.len() == 10, "{time}");
        let text = format!("{time}|POST|/orders?side=buy|{}", sha256(b"amount=1"));
        let tag = mac(tollgate.value("KEY").as_bytes(), &text);
        let expected = if prefix.is_empty() { base64.encode(&tag) } else { hex(&tag) };
        assert_eq!(record.header("x-signature").unwrap(), format!("{prefix}{expected}"));
        assert_eq!(record.body, "amount=1");
        let events = tollgate.finish().await;
        assert_eq!(events.last().unwrap()["locations"][0], "sign:x-signature");
    }
}

#[tokio::test]
async fn an_hmac_over_a_body_beyond_the_limit_is_refused() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(&HMAC.replace(", SHAPE", ""), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test").showing_credentials(true);
    let body = vec![Bytes::from(vec![b'a'; 1 << 20]), Bytes::from_static(b"b")];
    let unstated = streamed(futures_util::stream::iter(body.into_iter().map(Frame::data)));
    for body in [full("x".repeat((1 << 20) + 1)), unstated] {
        let request = Request::post("https://api.example.com/orders").body(body).unwrap();
        let answer = sandbox.send(request).await;
        assert_eq!((answer.status, answer.reason()), (413, "limit_exceeded"));
        assert!(answer.json()["hint"].as_str().unwrap().contains("limits.bufferedBody"));
    }
    assert!(upstream.requests().is_empty());
    tollgate.finish().await;
}

#[tokio::test]
async fn an_hmac_is_not_made_for_a_caller_of_a_shared_listener_without_credentials() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(&HMAC.replace(", SHAPE", ""), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test").showing_credentials(false);
    let answer = sandbox.get("https://api.example.com/orders").await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_unavailable"));
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}
