//! Values spelled out byte by byte: AWS answers a signature that it does not agree with by telling what it would have signed, the session
//! token in it, as text and as bytes in hex with spaces between them.

use crate::secret::Needles;

/// The text without those runs of spelled bytes that hold a value; none if there is no such run.
pub(super) fn dropped(body: &[u8], needles: &Needles) -> Option<Vec<u8>> {
    let mut kept: Option<Vec<u8>> = None;
    let (mut at, mut copied) = (0, 0);
    while at < body.len() {
        let (end, bytes) = run(body, at);
        if needles.is_in(&bytes) {
            let kept = kept.get_or_insert_default();
            kept.extend_from_slice(body.get(copied..at).unwrap_or_default());
            copied = end;
        }
        at = end.max(at + 1);
    }
    if let Some(kept) = &mut kept {
        kept.extend_from_slice(body.get(copied..).unwrap_or_default());
    }
    kept
}

/// Where a run of spelled bytes from `start` on ends, and what it spells.
fn run(body: &[u8], start: usize) -> (usize, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut end = start;
    loop {
        let next = if bytes.is_empty() { end } else { end + 1 };
        let spaced = bytes.is_empty() || body.get(end) == Some(&b' ');
        let digit = |at: usize| char::from(*body.get(at)?).to_digit(16);
        let pair = digit(next).zip(digit(next + 1)).filter(|_| spaced);
        let Some(byte) = pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) else {
            return (end, bytes);
        };
        bytes.push(byte);
        end = next + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{SealKey, SecretValue};

    fn spelled(text: &str) -> String {
        text.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_run_goes_only_if_it_holds_a_value() {
        let value = SecretValue::new(b"a-session-token-of-some-length".to_vec()).unwrap();
        let token = SealKey::new(&[7; 32]).seal(
            &"sb".parse().unwrap(),
            0,
            &"AWS_SESSION_TOKEN".parse().unwrap(),
        );
        let needles = Needles::new(&[(token, std::sync::Arc::new(value))]);
        let with = format!("GET\nx:{}\n", "a-session-token-of-some-length");
        for (inside, kept) in [
            (spelled(&with), String::new()),
            (spelled(&with).to_ascii_uppercase(), String::new()),
            (spelled("GET\nx:nothing of the kind\n"), spelled("GET\nx:nothing of the kind\n")),
            (String::new(), String::new()),
        ] {
            let text = |inside: &str| format!("<E><Bytes>{inside}</Bytes><Code>ab cd</Code></E>");
            let found = dropped(text(&inside).as_bytes(), &needles);
            let found = found.map_or_else(|| text(&inside), |it| String::from_utf8(it).unwrap());
            assert_eq!(found, text(&kept));
        }
    }
}
