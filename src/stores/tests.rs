//! One battery over all sources, and the life of a value on a paused clock.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::secret::SecretName;
use crate::shutdown::Tasks;

const SECRET: &str = "sk-live-9f8e7d6c5b4a";

fn live(name: &str, source: Arc<dyn Source>, needs_header: bool) -> Arc<LiveSecret> {
    let name: SecretName = name.parse().unwrap();
    let source_name = SourceName::of(&SourceSpec::Env("TESTED".to_owned()));
    LiveSecret::over(name, source_name, source, needs_header, Tasks::new().1)
}

fn texts(live: &LiveSecret) -> Vec<String> {
    live.held().iter().map(|value| String::from_utf8(value.expose().to_vec()).unwrap()).collect()
}

/// The four kinds of source, each holding these bytes.
fn sources(folder: &TempDir, bytes: &[u8]) -> Vec<(&'static str, Arc<dyn Source>)> {
    let text = std::str::from_utf8(bytes).unwrap();
    let path = folder.path().join("value");
    std::fs::write(&path, bytes).unwrap();
    let argv = vec!["cat".to_owned(), path.display().to_string()];
    let mut sources: Vec<(&'static str, Arc<dyn Source>)> = vec![
        // A variable whose name is its value.
        ("env", Arc::new(Env { variable: text.to_owned(), lookup: |name| Some(name.into()) })),
        ("file", Arc::new(file::SecretFile::new(path))),
        ("command", Arc::new(command(argv, Duration::from_secs(20)))),
    ];
    if let Ok(value) = SecretValue::new(bytes.to_vec()) {
        sources.push(("value", Arc::new(Literal(Arc::new(value)))));
    }
    sources
}

fn missing() -> Vec<(&'static str, Arc<dyn Source>)> {
    let argv = vec!["/nowhere/program".to_owned()];
    vec![
        ("env", Arc::new(Env { variable: "X".to_owned(), lookup: |_| None })),
        ("file", Arc::new(file::SecretFile::new(PathBuf::from("/nowhere/file")))),
        ("command", Arc::new(command(argv, Duration::from_secs(20)))),
    ]
}

fn command(argv: Vec<String>, timeout: Duration) -> Command {
    Command { argv, refresh: Duration::from_secs(600), timeout }
}

fn sh(script: &str, timeout: Duration) -> Arc<dyn Source> {
    Arc::new(command(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()], timeout))
}

#[tokio::test]
async fn every_source_is_read_when_wanted_and_then_held() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, source) in sources(&folder, SECRET.as_bytes()) {
        let live = live("KEY", source, true);
        assert!(live.fresh().is_none() && live.held().is_empty(), "{kind} was read unasked");
        assert_eq!(live.value().await.unwrap().expose(), SECRET.as_bytes(), "{kind}");
        assert_eq!(live.fresh().unwrap().expose(), SECRET.as_bytes(), "{kind}");
        assert_eq!(texts(&live), [SECRET], "{kind}");
        assert!(!format!("{live:?}").contains("sk-live"), "{kind}");
    }
}

#[tokio::test]
async fn every_source_is_read_once_for_all_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, source) in sources(&folder, SECRET.as_bytes()) {
        let live = live("KEY", source, true);
        let callers = (0..20).map(|_| live.value());
        let values = futures_util::future::join_all(callers).await;
        let first = values[0].clone().unwrap();
        for value in values {
            assert!(Arc::ptr_eq(&value.unwrap(), &first), "{kind} was read twice");
        }
    }
}

#[tokio::test]
async fn no_source_gives_an_empty_or_an_oversized_value() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, source) in sources(&folder, b"") {
        let error = live("KEY", source, false).value().await.unwrap_err();
        assert_eq!(error.fault, Fault::Value(ValueError::Empty), "{kind}");
    }
    for (kind, source) in sources(&folder, "x".repeat(65_537).as_bytes()) {
        let error = live("KEY", source, false).value().await.unwrap_err();
        assert_eq!(error.fault, Fault::Value(ValueError::TooLong), "{kind}");
    }
    for (kind, source) in sources(&folder, "x".repeat(65_536).as_bytes()) {
        assert_eq!(live("KEY", source, true).value().await.unwrap().len(), 65_536, "{kind}");
    }
}

#[tokio::test]
async fn a_value_that_breaks_a_header_is_refused_only_where_it_may_stand_in_one() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["two-secret\nlines", "nul-secret\0", "blank-secret ", "two-secret\n\n"] {
        for (kind, source) in sources(&folder, text.as_bytes()) {
            let live_header = live("KEY", source.clone(), true);
            let error = live_header.value().await.unwrap_err();
            assert_eq!(error.fault, Fault::NotForHeader, "{kind} {text:?}");
            assert!(!format!("{error} {error:?} {}", error.hint()).contains("-secret"), "{kind}");
            assert!(live_header.held().is_empty(), "{kind}");
            assert!(live("KEY", source, false).value().await.is_ok(), "{kind} {text:?}");
        }
    }
}

#[tokio::test]
async fn one_newline_at_the_end_of_what_is_saved_or_printed_is_not_part_of_the_value() {
    let folder = tempfile::tempdir().unwrap();
    for end in ["\n", "\r\n"] {
        for (kind, source) in sources(&folder, format!("{SECRET}{end}").as_bytes()) {
            let value = live("KEY", source, false).value().await.unwrap();
            let expected = match kind {
                "file" | "command" => SECRET.to_owned(),
                _ => format!("{SECRET}{end}"),
            };
            assert_eq!(value.expose(), expected.as_bytes(), "{kind} {end:?}");
        }
    }
}

#[tokio::test]
async fn a_missing_source_is_an_error_that_names_the_secret_and_is_not_asked_again_at_once() {
    for (kind, source) in missing() {
        let live = live("API_KEY", source, true);
        let error = live.value().await.unwrap_err();
        let expected = match kind {
            "env" => Fault::Unset,
            "file" => Fault::Unreadable(std::io::ErrorKind::NotFound),
            _ => Fault::NotStarted(std::io::ErrorKind::NotFound),
        };
        assert_eq!(error.fault, expected, "{kind}");
        assert!(error.to_string().contains("the secret API_KEY cannot be read from"), "{error}");
        assert!(!error.hint().is_empty());
        assert_eq!(live.value().await.unwrap_err(), error, "{kind}");
        assert!(live.fresh().is_none() && live.held().is_empty(), "{kind}");
    }
}

#[test]
fn sources_are_named_without_arguments_and_values() {
    let literal = SourceSpec::Value(Arc::new(SecretValue::new(SECRET.into()).unwrap()));
    let argv = vec!["vault".to_owned(), format!("--token={SECRET}")];
    let command = SourceSpec::Command { argv, refresh: None, timeout: Duration::from_secs(1) };
    for (spec, name) in [
        (SourceSpec::Env("TOKEN".to_owned()), "the variable TOKEN"),
        (SourceSpec::File("/run/x".into()), "the file /run/x"),
        (command, "the command vault"),
        (literal, "its literal value"),
    ] {
        assert_eq!(open(spec, &TokenEndpoints::default()).0.to_string(), name);
    }
}

/// A source that answers from a list; the last answer repeats.
struct Script {
    answers: Mutex<VecDeque<Result<&'static str, Fault>>>,
    takes: Duration,
    refresh: Duration,
    fetches: AtomicU32,
}

impl Script {
    fn new(refresh: u64, answers: &[Result<&'static str, Fault>]) -> Arc<Self> {
        Self::slow(refresh, 0, answers)
    }

    fn slow(refresh: u64, takes: u64, answers: &[Result<&'static str, Fault>]) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.iter().copied().collect()),
            takes: Duration::from_secs(takes),
            refresh: Duration::from_secs(refresh),
            fetches: AtomicU32::new(0),
        })
    }

    fn fetches(&self) -> u32 {
        self.fetches.load(Ordering::Relaxed)
    }

    fn next(&self) -> Result<&'static str, Fault> {
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0] }
    }
}

impl Source for Script {
    fn fetch(&self, _since: Option<Stamp>) -> Fetching<'_> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            if !self.takes.is_zero() {
                sleep(self.takes).await;
            }
            let text = self.next()?;
            assert!(text != "panic", "as the script says");
            Ok(Fetched::Value(Arc::new(SecretValue::new(text.into())?), None))
        })
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime::For(self.refresh)
    }
}

/// Lets the fetches that are due run.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn text(value: &SecretValue) -> &str {
    std::str::from_utf8(value.expose()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_fetch_is_shared_and_outlives_the_caller_who_started_it() {
    let script = Script::slow(100, 2, &[Ok("first-value-1")]);
    let live = live("KEY", script.clone(), true);
    let gives_up = tokio::time::timeout(Duration::from_secs(1), live.value());
    assert!(gives_up.await.is_err());
    let values = futures_util::future::join_all((0..50).map(|_| live.value())).await;
    assert!(values.iter().all(Result::is_ok));
    assert_eq!(script.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_value_in_use_is_renewed_before_it_expires_and_nobody_waits() {
    let script = Script::new(100, &[Ok("first-value-1"), Ok("second-value-2")]);
    let live = live("KEY", script.clone(), true);
    live.value().await.unwrap();
    advance(Duration::from_secs(79)).await;
    assert_eq!(text(&live.fresh().unwrap()), "first-value-1");
    settle().await;
    assert_eq!(script.fetches(), 1);
    advance(Duration::from_secs(2)).await;
    for _ in 0..100 {
        assert_eq!(text(&live.fresh().unwrap()), "first-value-1");
    }
    settle().await;
    assert_eq!(script.fetches(), 2, "one renewal for all");
    assert_eq!(text(&live.fresh().unwrap()), "second-value-2");
    assert_eq!(texts(&live), ["second-value-2", "first-value-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_nobody_uses_is_not_renewed_and_not_served_when_it_is_old() {
    let script = Script::new(100, &[Ok("first-value-1"), Ok("second-value-2")]);
    let live = live("KEY", script.clone(), true);
    live.value().await.unwrap();
    advance(Duration::from_secs(101)).await;
    settle().await;
    assert_eq!(script.fetches(), 1);
    assert!(live.fresh().is_none());
    assert_eq!(text(&live.value().await.unwrap()), "second-value-2");
}

#[tokio::test(start_paused = true)]
async fn while_the_source_fails_the_old_value_stands_in_until_it_expires() {
    let down = Err(Fault::Failed(Some(1)));
    let script = Script::new(100, &[Ok("first-value-1"), down]);
    let live = live("KEY", script.clone(), true);
    let start = Instant::now();
    live.value().await.unwrap();
    while start.elapsed() < Duration::from_secs(199) {
        assert_eq!(text(&live.value().await.unwrap()), "first-value-1", "{:?}", start.elapsed());
        settle().await;
        advance(Duration::from_millis(500)).await;
    }
    advance(Duration::from_secs(1)).await;
    assert_eq!(live.value().await.unwrap_err().fault, Fault::Failed(Some(1)));
    assert!(live.fresh().is_none());
    assert_eq!(texts(&live), ["first-value-1"], "answers may still hold it");
    // 1 + 2 + 4 + 8 + 16 + 32 s after the first failure at 80 s, then each minute.
    assert!((7..=9).contains(&script.fetches()), "{}", script.fetches());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_recovers_is_used_again_after_the_pause() {
    let script = Script::new(100, &[Err(Fault::Unset), Err(Fault::Unset), Ok("first-value-1")]);
    let live = live("KEY", script.clone(), true);
    for _ in 0..10 {
        assert_eq!(live.value().await.unwrap_err().fault, Fault::Unset);
    }
    assert_eq!(script.fetches(), 1, "ten requests asked once");
    advance(Duration::from_secs(1)).await;
    assert!(live.value().await.is_err());
    advance(Duration::from_secs(1)).await;
    assert!(live.value().await.is_err());
    assert_eq!(script.fetches(), 2, "the second pause is longer");
    advance(Duration::from_secs(1)).await;
    assert_eq!(text(&live.value().await.unwrap()), "first-value-1");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_waited_for_no_longer_than_its_patience() {
    let script = Script::slow(100, 10_000, &[Ok("first-value-1")]);
    let live = live("KEY", script.clone(), true);
    let start = Instant::now();
    assert_eq!(live.value().await.unwrap_err().fault, Fault::NoAnswer);
    assert_eq!(start.elapsed(), script.patience());
    assert!(live.value().await.is_err());
    assert_eq!(script.fetches(), 1, "one hanging fetch is enough");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_does_not_block_the_next_fetch() {
    let script = Script::new(100, &[Ok("panic"), Ok("first-value-1")]);
    let live = live("KEY", script, true);
    assert_eq!(text(&live.value().await.unwrap()), "first-value-1");
}

#[tokio::test(start_paused = true)]
async fn a_retired_value_is_held_for_an_hour_and_an_unchanged_one_is_held_once() {
    let script = Script::new(10, &[Ok("first-value-1"), Ok("first-value-1"), Ok("second-value-2")]);
    let live = live("KEY", script, true);
    live.value().await.unwrap();
    advance(Duration::from_secs(11)).await;
    live.value().await.unwrap();
    assert_eq!(texts(&live), ["first-value-1"]);
    advance(Duration::from_secs(11)).await;
    live.value().await.unwrap();
    assert_eq!(texts(&live), ["second-value-2", "first-value-1"]);
    advance(Duration::from_secs(3_599)).await;
    assert_eq!(live.held().len(), 2);
    advance(Duration::from_secs(1)).await;
    assert_eq!(texts(&live), ["second-value-2"]);
}

#[tokio::test(start_paused = true)]
async fn how_often_values_retire_is_bounded() {
    let script = Script::new(1, &[Ok("first-value-1")]);
    let live = live("KEY", script.clone(), true);
    for at in 0..400 {
        let next: &'static str = Box::leak(format!("rotated-value-{at}").into_boxed_str());
        *script.answers.lock().unwrap() = [Ok(next)].into();
        live.value().await.unwrap();
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(live.held().len(), 257);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_when_it_changes_also_behind_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let link = |to: &Path| {
        std::os::unix::fs::symlink(to, at("next")).unwrap();
        std::fs::rename(at("next"), at("value")).unwrap();
    };
    std::fs::write(at("one"), "first-value-1\n").unwrap();
    std::fs::write(at("two"), "other-value-2\n").unwrap();
    link(&at("one"));
    let live = live("KEY", Arc::new(file::SecretFile::new(at("value"))), true);
    let first = live.value().await.unwrap();
    advance(Duration::from_millis(1_100)).await;
    assert!(Arc::ptr_eq(&live.value().await.unwrap(), &first), "unchanged, so not read again");
    link(&at("two"));
    assert!(Arc::ptr_eq(&live.value().await.unwrap(), &first), "looked at once a second");
    advance(Duration::from_millis(1_100)).await;
    assert_eq!(text(&live.value().await.unwrap()), "other-value-2");
    assert_eq!(texts(&live), ["other-value-2", "first-value-1"]);
    std::fs::remove_file(at("two")).unwrap();
    advance(Duration::from_millis(2_100)).await;
    let error = live.value().await.unwrap_err();
    assert_eq!(error.fault, Fault::Unreadable(std::io::ErrorKind::NotFound));
}

#[tokio::test]
async fn a_folder_or_a_pipe_is_no_secret_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    for path in [folder.path().to_owned(), pipe] {
        let live = live("KEY", Arc::new(file::SecretFile::new(path)), true);
        assert_eq!(live.value().await.unwrap_err().fault, Fault::NotAFile);
    }
}

#[tokio::test]
async fn a_program_has_no_input_no_shell_and_nothing_of_its_errors_is_kept() {
    let long = Duration::from_secs(20);
    let value = live("KEY", sh("cat; printf first-value-1", long), true).value().await.unwrap();
    assert_eq!(text(&value), "first-value-1");
    let argv = vec!["printf".to_owned(), "%s".to_owned(), "$HOME;`id`".to_owned()];
    let value = live("KEY", Arc::new(command(argv, long)), true).value().await.unwrap();
    assert_eq!(text(&value), "$HOME;`id`");
    let script = format!("echo {SECRET}; echo {SECRET} >&2; exit 3");
    let error = live("KEY", sh(&script, long), true).value().await.unwrap_err();
    assert_eq!(error.fault, Fault::Failed(Some(3)));
    assert!(error.to_string().ends_with("it ended with status 3"), "{error}");
    assert!(!format!("{error:?}").contains(SECRET));
    let error = live("KEY", sh("kill -9 $$", long), true).value().await.unwrap_err();
    assert_eq!(error.fault, Fault::Failed(None));
}

#[tokio::test]
async fn a_program_that_prints_without_end_is_stopped() {
    let endless = command(vec!["yes".to_owned()], Duration::from_secs(60));
    let error = live("KEY", Arc::new(endless), true).value().await.unwrap_err();
    assert_eq!(error.fault, Fault::TooMuch);
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!("sleep 300 & echo $$ $! > '{}'; wait", pids.display());
    let timeout = Duration::from_millis(500);
    let error = live("KEY", sh(&script, timeout), true).value().await.unwrap_err();
    assert_eq!(error.fault, Fault::TimedOut(timeout));
    let pids = std::fs::read_to_string(&pids).unwrap();
    for pid in pids.split_whitespace() {
        wait_for_the_end_of(pid).await;
    }
}

/// Gone, or a zombie that only waits to be counted.
async fn wait_for_the_end_of(pid: &str) {
    for _ in 0..200 {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("process {pid} still runs");
}
