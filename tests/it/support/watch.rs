//! What is watched while tests run: every log line, every panic, and where real values turn up.

use std::io::Write;
use std::sync::{Mutex, Once, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tracing_subscriber::EnvFilter;

/// All log lines of this process: tests run side by side, so a line names its thread, which libtest names like the test.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Starts to watch, once per process; returns where the log is now.
pub(crate) fn start() -> usize {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = EnvFilter::new("debug,tollgate=trace");
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_thread_names(true)
            .with_writer(|| Sink)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            if !place.starts_with("tests/") {
                PANICS
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(format!("{place}: {info}"));
            }
            before(info);
        }));
    });
    LOG.lock().unwrap_or_else(PoisonError::into_inner).len()
}

struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log since then.
pub(crate) fn log_since(start: usize) -> Vec<u8> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)[start..].to_vec()
}

/// ERROR lines of this test's own thread, or of a thread that has no test's name.
pub(crate) fn errors_in(log: &[u8]) -> Vec<String> {
    let mine = std::thread::current().name().unwrap_or_default().to_owned();
    let log = String::from_utf8_lossy(log);
    let errors = log.lines().filter(|line| line.contains(" ERROR "));
    errors
        .filter(|line| line.contains(&mine) || line.contains("tokio-runtime-worker"))
        .map(str::to_owned)
        .collect()
}

/// Panics outside the tests' own code, of any test.
pub(crate) fn panics() -> Vec<String> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A value as it may turn up: raw, base64 (three alignments, both alphabets), hex, percent-encoded, JSON-escaped.
pub(crate) fn encodings(value: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![value.to_vec()];
    for shift in 0..3_usize {
        let shifted = [vec![b'-'; shift], value.to_vec()].concat();
        let (first, last) = ([0, 2, 3][shift], shifted.len() * 8 / 6);
        all.push(STANDARD_NO_PAD.encode(&shifted).as_bytes()[first..last].to_vec());
        all.push(URL_SAFE_NO_PAD.encode(&shifted).as_bytes()[first..last].to_vec());
    }
    let each = |form: fn(&u8) -> String| value.iter().map(form).collect::<String>().into_bytes();
    all.push(each(|byte| format!("{byte:02x}")));
    all.push(each(|byte| format!("{byte:02X}")));
    all.push(each(|byte| format!("%{byte:02X}")));
    all.push(
        percent_encoding::percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
            .to_string()
            .into_bytes(),
    );
    let json = serde_json::to_string(&String::from_utf8_lossy(value)).unwrap();
    all.push(json.trim_matches('"').as_bytes().to_vec());
    all.sort();
    all.dedup();
    all
}

/// Which of the encodings of a value is in the bytes.
pub(crate) fn found_in(bytes: &[u8], value: &[u8]) -> Option<String> {
    let found =
        encodings(value).into_iter().find(|needle| memchr::memmem::find(bytes, needle).is_some());
    found.map(|needle| String::from_utf8_lossy(&needle).into_owned())
}
