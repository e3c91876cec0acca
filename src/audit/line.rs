//! One event as one line of JSON: what serde writes of it, at a quarter of the instructions, since every request has one.
//!
//! All but printable ASCII is escaped, so that no reader's terminal acts on a line or shows it in another order.

use jiff::fmt::temporal::DateTimePrinter;

use super::{Durations, Event};

/// Appends the event and a line feed.
pub(super) fn append(event: &Event, lines: &mut Vec<u8>) {
    // Every field is named, so that none is forgotten.
    let Event {
        time,
        event: kind,
        sandbox_id,
        request_id,
        client,
        host,
        port,
        method,
        path,
        protocol,
        verdict,
        reason,
        detail,
        answer,
        others,
        address,
        rule,
        layer,
        policy_digest,
        secrets,
        locations,
        tokens_in_body,
        tokens_forwarded,
        scrubbed,
        status,
        bytes_out,
        bytes_in,
        durations: Durations { head, total },
    } = event;
    let mut line = Line(lines);
    line.raw("{\"time\":\"");
    line.time(time);
    line.raw("\",\"event\":\"");
    line.raw(kind.as_str());
    line.raw("\"");
    line.text_if_any(",\"sandboxID\":", sandbox_id.as_ref().map_or("", |id| id.as_str()));
    line.hexadecimal(",\"requestID\":", &request_id.0.to_be_bytes());
    line.text_if_any(",\"client\":", client.as_deref().unwrap_or_default());
    line.text_if_any(",\"host\":", host);
    line.number_if_any(",\"port\":", port.map(u64::from));
    line.text_if_any(",\"method\":", method);
    line.text_if_any(",\"path\":", path);
    line.text_if_any(",\"protocol\":", protocol);
    line.text(",\"verdict\":", verdict.as_str());
    line.text_if_any(",\"reason\":", reason.map_or("", |reason| reason.as_str()));
    line.text_if_any(",\"detail\":", detail);
    line.text_if_any(",\"answer\":", answer);
    line.number_if_any(",\"others\":", not_zero(*others));
    if let Some(address) = address {
        line.text(",\"address\":", &address.to_string());
    }
    line.text_if_any(",\"rule\":", rule.as_deref().unwrap_or_default());
    line.text_if_any(",\"layer\":", layer.as_deref().unwrap_or_default());
    if let Some(digest) = policy_digest {
        line.hexadecimal(",\"policyDigest\":", &digest.0.to_bytes());
    }
    line.list_if_any(",\"secrets\":", secrets.iter().map(|name| name.as_str()));
    line.list_if_any(",\"locations\":", locations.iter().map(String::as_str));
    line.number_if_any(",\"tokensInBody\":", not_zero(*tokens_in_body));
    line.number_if_any(",\"tokensForwarded\":", not_zero(*tokens_forwarded));
    line.number_if_any(",\"scrubbed\":", not_zero(*scrubbed));
    line.number_if_any(",\"status\":", status.map(u64::from));
    line.number(",\"bytesOut\":", *bytes_out);
    line.number(",\"bytesIn\":", *bytes_in);
    line.number(",\"durations\":{\"head\":", *head);
    line.number(",\"total\":", *total);
    line.raw("}}\n");
}

fn not_zero(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

/// The line under way. A key is written as it stands in the line, with its comma, quotes and colon.
struct Line<'l>(&'l mut Vec<u8>);

impl Line<'_> {
    fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    /// RFC 3339 in UTC with microseconds.
    fn time(&mut self, time: &jiff::Timestamp) {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
        if let Err(error) = PRINTER.print_timestamp(time, &mut *self.0) {
            tracing::error!(%error, "the time of an audit event cannot be written");
        }
    }

    fn text_if_any(&mut self, key: &'static str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.raw(key);
        self.quoted(text);
    }

    fn number_if_any(&mut self, key: &'static str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.raw(key);
        self.raw(itoa::Buffer::new().format(number));
    }

    fn list_if_any<'t>(&mut self, key: &'static str, texts: impl Iterator<Item = &'t str>) {
        let mut opened = false;
        for text in texts {
            self.raw(if opened { "," } else { key });
            if !opened {
                self.raw("[");
            }
            opened = true;
            self.quoted(text);
        }
        if opened {
            self.raw("]");
        }
    }

    fn hexadecimal(&mut self, key: &'static str, bytes: &[u8]) {
        self.raw(key);
        self.0.push(b'"');
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        self.0.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]));
        self.0.push(b'"');
    }

    /// A JSON string (RFC 8259 §7).
    fn quoted(&mut self, text: &str) {
        self.0.push(b'"');
        // Without an early end the loop looks at many bytes at once.
        if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            self.raw(text);
        } else {
            text.chars().for_each(|character| self.escaped(character));
        }
        self.0.push(b'"');
    }

    fn escaped(&mut self, character: char) {
        match u8::try_from(character) {
            Ok(byte) if is_plain(byte) => self.0.push(byte),
            Ok(byte @ (b'"' | b'\\')) => self.0.extend_from_slice(&[b'\\', byte]),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    self.raw(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::tests::events;
    use super::*;

    fn line(event: &Event) -> String {
        let mut lines = Vec::new();
        append(event, &mut lines);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn a_line_is_what_serde_writes() {
        for event in events() {
            assert_eq!(line(&event).trim_end(), serde_json::to_string(&event).unwrap());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_back_and_only_printable_ascii_is_written(
            path in any::<String>(),
            places in prop::collection::vec(any::<String>(), 0..4),
        ) {
            let [mut event, _] = events();
            event.path = path;
            event.locations = places;
            let line = line(&event);
            prop_assert!(line.trim_end_matches('\n').bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let read: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read, serde_json::to_value(&event).unwrap());
        }
    }
}
