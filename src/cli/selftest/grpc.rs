//! One gRPC message: a flag and a length, and protobuf with the token in a string (gRPC over HTTP/2, "Length-Prefixed-Message"). A value is
//! hardly ever as long as its token, so what is read back is right only if both lengths were made anew.

/// Field 1, a string.
const KEY: u8 = 0x0a;
/// Field 2, the number 1.
const BEHIND: [u8; 2] = [0x10, 1];

/// A body of one message.
pub(super) fn write(token: &str) -> Vec<u8> {
    let mut message = vec![KEY];
    message.extend(varint(token.len()));
    message.extend_from_slice(token.as_bytes());
    message.extend(BEHIND);
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    body
}

/// The string, if every length is right.
pub(super) fn read(body: &[u8]) -> Option<Vec<u8>> {
    let (length, message) = body.strip_prefix(&[0])?.split_first_chunk()?;
    if usize::try_from(u32::from_be_bytes(*length)).ok()? != message.len() {
        return None;
    }
    let field = message.strip_prefix(&[KEY])?.strip_suffix(&BEHIND)?;
    // A length ends with its first byte below 0x80.
    let (prefix, text) = field.split_at(field.iter().position(|byte| *byte < 0x80)? + 1);
    (prefix == varint(text.len())).then(|| text.to_vec())
}

/// Seven bits a byte, the low ones first (protobuf.dev, "Encoding").
fn varint(number: usize) -> Vec<u8> {
    let mut written = Vec::new();
    let mut rest = number;
    loop {
        let [low, ..] = (rest & 0x7f).to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            written.push(low);
            return written;
        }
        written.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_wrong_length_is_not() {
        for length in [1, 127, 128, 20_000] {
            let token = "t".repeat(length);
            let body = write(&token);
            assert_eq!(read(&body).as_deref(), Some(token.as_bytes()), "{length}");
            for (at, what) in [(4, "of the message"), (6, "of the string")] {
                let mut wrong = body.clone();
                wrong[at] ^= 1;
                assert_eq!(read(&wrong), None, "the length {what} at {length}");
            }
        }
    }
}
