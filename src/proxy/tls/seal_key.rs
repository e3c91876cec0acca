//! The seal key's file, `seal.key` beside the authority: 32 random bytes as hex, made on first use.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::key_dir::{Access, KeyDir, KeyDirError};
use crate::secret::SealKey;

/// Reads `seal.key` in `dir`, and makes it first if there is none.
///
/// A file that is there but malformed is an error: a new key would silently change every sealed token.
pub fn open_or_create(dir: &Path) -> Result<SealKey, SealKeyError> {
    let dir = KeyDir::open_or_make(dir)?;
    if let Some(key) = read(&dir)? {
        return Ok(key);
    }
    let lock = dir.lock()?;
    if let Some(key) = read(&dir)? {
        return Ok(key);
    }
    lock.create(FILE, Access::Private, fresh()?.as_bytes())?;
    read(&dir)?.ok_or_else(|| SealKeyError::Malformed { path: dir.file(FILE) })
}

/// Reads a key that an operator gives by variable, file or command: 64 hex digits, with blanks around them or not.
#[must_use]
pub fn parse(text: &[u8]) -> Option<SealKey> {
    let digits = text.trim_ascii();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let mut value = 0;
        for &digit in pair {
            value = value << 4 | u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        }
        *byte = value;
    }
    Some(SealKey::new(&bytes))
}

fn read(dir: &KeyDir) -> Result<Option<SealKey>, SealKeyError> {
    let Some(text) = dir.read(FILE, Access::Private)? else { return Ok(None) };
    match parse(&text) {
        Some(key) => Ok(Some(key)),
        None => Err(SealKeyError::Malformed { path: dir.file(FILE) }),
    }
}

fn fresh() -> Result<Zeroizing<String>, SealKeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_unspecified| SealKeyError::Random)?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in bytes.iter() {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
    }
    text.push('\n');
    Ok(text)
}

/// Why there is no seal key.
#[derive(Debug, thiserror::Error)]
pub enum SealKeyError {
    /// The file or its folder.
    #[error(transparent)]
    File(#[from] KeyDirError),
    /// Cut short, edited, or something else altogether.
    #[error("{} does not hold 64 hex digits; restore it, or move it away to get a new key, which changes every sealed token", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system's generator failed.
    #[error("the system gave no random bytes for a seal key")]
    Random,
}

const FILE: &str = "seal.key";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn token(key: &SealKey) -> String {
        key.seal(&"sb-1".parse().unwrap(), 0, &"KEY".parse().unwrap()).as_str().to_owned()
    }

    #[test]
    fn the_key_is_made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let first = token(&open_or_create(root.path()).unwrap());
        assert_eq!(first, token(&open_or_create(root.path()).unwrap()));
        let file = root.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(first, token(&parse(&fs::read(&file).unwrap()).unwrap()));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(first, token(&open_or_create(other.path()).unwrap()));
    }

    #[test]
    fn many_first_starts_at_once_agree_on_one_key() {
        let root = tempfile::tempdir().unwrap();
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| token(&open_or_create(root.path()).unwrap())))
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]), "{tokens:?}");
    }

    #[test]
    fn a_malformed_key_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        drop(open_or_create(root.path()).unwrap());
        let file = root.path().join(FILE);
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            fs::write(&file, text).unwrap();
            let opened = open_or_create(root.path());
            assert!(matches!(opened, Err(SealKeyError::Malformed { .. })), "{text:?}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }
}
