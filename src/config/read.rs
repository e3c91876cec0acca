//! The file → its written form. Opened once, checked through the open file, bounded; the first mistake of its grammar ends the reading.

use std::fs::File;
use std::io::{Error, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde_saphyr::options::MergeKeyPolicy;

use super::error::{ConfigError, quoted};
use super::written::{Written, WrittenFile};

/// A larger file is no configuration.
const MAX_BYTES: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<WrittenFile, ConfigError> {
    let text = read_text(path)?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<WrittenFile, ConfigError> {
    let empty = WrittenFile { path: Some(path.to_owned()), written: Written::default() };
    let only_comments = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(only_comments) {
        return Ok(empty);
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! { max_nodes: 50_000, max_depth: 32, max_aliases: 0 },
    };
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(written) => Ok(WrittenFile { written, ..empty }),
        Err(error) => Err(from_yaml(&empty, error.without_snippet())),
    }
}

fn from_yaml(file: &WrittenFile, error: &serde_saphyr::Error) -> ConfigError {
    use serde_saphyr::Error as Yaml;
    let at = error.location().map_or((0, 0), |location| (location.line(), location.column()));
    let place = file.place(at.0, at.1);
    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's own faults, about a hundred")]
    match error {
        Yaml::SerdeUnknownField { field, expected, .. } => {
            let known: Vec<_> = expected.iter().filter(|key| !NOT_CARRIED.contains(key)).collect();
            let hint = match known.iter().find(|key| resembles(field, key)) {
                Some(key) => format!("did you mean `{key}`?"),
                None => {
                    let known = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>();
                    format!("the keys here are {}", known.join(", "))
                }
            };
            let message = format!("there is no key `{}` here", quoted(field));
            ConfigError::new(place, message).hint(hint)
        }
        Yaml::SerdeUnknownVariant { variant, expected, .. } => {
            let message = format!("`{}` is none of the values here", quoted(variant));
            ConfigError::new(place, message).hint(format!("write `{}`", expected.join("` or `")))
        }
        Yaml::SerdeInvalidType { expected, .. } | Yaml::SerdeInvalidValue { expected, .. } => {
            ConfigError::new(place, "a value of another kind is wanted here")
                .hint(format!("write {expected}"))
        }
        Yaml::SerdeMissingField { field, .. } => {
            ConfigError::new(place, format!("the key `{field}` is missing")).hint("add it")
        }
        Yaml::Message { msg, .. } => ConfigError::new(place, quoted_long(msg)),
        other => {
            let text = other.to_string();
            let line = text.lines().next().unwrap_or("the YAML cannot be read");
            let line = line.split(" at line ").next().unwrap_or(line);
            ConfigError::new(place, quoted_long(line))
                .hint("check indentation, quotes, brackets and duplicate keys at this place")
        }
    }
}

/// Keys that the file's grammar knows only to say that this version does not carry them.
const NOT_CARRIED: [&str; 4] = ["transparent", "tproxy", "dns", "storage"];

/// The parser's own words may quote the file: one line, bounded.
fn quoted_long(text: &str) -> String {
    text.chars().take(240).filter(|c| !c.is_control()).collect()
}

/// Whether somebody who wrote `written` may have meant `key`: equal but for case, `-` and `_`, or one letter away.
fn resembles(written: &str, key: &str) -> bool {
    let plain = |text: &str| -> Vec<u8> {
        text.bytes().filter(|b| !matches!(b, b'-' | b'_')).map(|b| b.to_ascii_lowercase()).collect()
    };
    let (one, other) = (plain(written), plain(key));
    let head = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let rest = one.len().min(other.len()) - head;
    let both = one.iter().rev().zip(other.iter().rev()).take(rest);
    let tail = both.take_while(|(a, b)| a == b).count();
    one.len().max(other.len()) - head - tail <= 1
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let whole = WrittenFile { path: Some(path.to_owned()), written: Written::default() };
    let fault = |message: String| ConfigError::new(whole.place(0, 0), message);
    let unreadable = |error: &Error| fault(format!("cannot be read: {error}"));
    // Not blocking, so that a pipe in the place of a file does not hold the start up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let mut file = File::from(opened.map_err(|error| unreadable(&error.into()))?);
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(fault("this is not a regular file".to_owned()).hint("name a file"));
    }
    check_trust(metadata.mode(), metadata.uid())
        .map_err(|(message, hint)| fault(message).hint(hint))?;
    let mut bytes = Vec::new();
    file.by_ref()
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fault(format!("the file is larger than {MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes);
    text.map_err(|_error| fault("the file is not UTF-8".to_owned()).hint("save it as UTF-8"))
}

/// Who may write the configuration decides which programs Tollgate starts.
fn check_trust(mode: u32, owner: u32) -> Result<(), (String, &'static str)> {
    if mode & 0o002 != 0 {
        return Err(("everybody may write this file".to_owned(), "chmod o-w it"));
    }
    let own = rustix::process::geteuid().as_raw();
    if owner != 0 && owner != own {
        let message = format!(
            "the file belongs to user {owner}, who is neither root nor the user that Tollgate runs as ({own})"
        );
        return Err((message, "chown it to one of the two"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_is_recognised() {
        for (written, key) in [
            ("buffered_body", "bufferedBody"),
            ("polices", "policies"),
            ("limit", "limits"),
            ("egres", "egress"),
            ("denails", "denials"),
        ] {
            assert_eq!(resembles(written, key), written != "denails", "{written}");
        }
        assert!(!resembles("ca", "egress"));
    }
}
