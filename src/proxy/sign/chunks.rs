//! `aws-chunked` bodies whose chunks are signed (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD` and `…-TRAILER`), signed anew while they stream.
//!
//! ```text
//! 10000;chunk-signature=<64 hex>\r\n  <65536 bytes>\r\n  …  0;chunk-signature=<64 hex>\r\n  [trailers]  \r\n
//! ```
//!
//! Each signature stands in front of what it covers and holds the one before, so one chunk at a time is held, and no more. Signatures have one
//! length: the body keeps its own.

use super::sigv4::{EMPTY_SHA256, Signer, sha256_hex};
use crate::policy::{Denial, DenyReason};

/// Signs the chunks of one body anew.
#[derive(Debug)]
pub(in crate::proxy) struct Chunks {
    signer: Signer,
    /// The signature before.
    before: String,
    /// The longest chunk that is held, in bytes.
    most: usize,
    trailers: bool,
    state: State,
    /// A piece of the body that is not whole yet.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `10000;chunk-signature=…\r\n`
    Head,
    /// So many bytes of the head's line, then so many of data, then a line end.
    Data {
        line: usize,
        size: usize,
    },
    /// The lines behind the last chunk, up to an empty one.
    Trailers,
    Ended,
}

const LINE_END: &[u8] = b"\r\n";
/// `chunk-signature` and what surrounds it, with room for a size in hex.
const LONGEST_HEAD: usize = 128;
/// All trailers together.
const LONGEST_TRAILERS: usize = 8 * 1024;
const CHUNK_SIGNATURE: &str = "chunk-signature=";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature:";
/// A signature in hex.
const SIGNATURE: usize = 64;

impl Chunks {
    /// `seed` is the signature of the head; with `trailers` the last chunk is followed by signed trailers.
    pub(super) const fn new(signer: Signer, seed: String, trailers: bool, most: usize) -> Self {
        Self { signer, before: seed, most, trailers, state: State::Head, held: Vec::new() }
    }

    /// Takes a piece, and appends the chunks that are whole with it.
    pub(in crate::proxy) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Denial> {
        let mut rest = data;
        while !rest.is_empty() {
            let taken = match self.state {
                State::Head => self.line(rest, LONGEST_HEAD, out)?,
                State::Data { line, size } => self.data(rest, line, size, out)?,
                State::Trailers => self.line(rest, LONGEST_TRAILERS, out)?,
                State::Ended => return Err(malformed("there are bytes behind its end")),
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The body has ended.
    pub(in crate::proxy) fn finish(&self) -> Result<(), Denial> {
        if self.state == State::Ended { Ok(()) } else { Err(malformed("it ends before its end")) }
    }

    /// Holds bytes up to the end of a line; acts on what is then held.
    fn line(&mut self, rest: &[u8], most: usize, out: &mut Vec<u8>) -> Result<usize, Denial> {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        self.held.extend_from_slice(rest.get(..end).unwrap_or_default());
        if self.held.len() > most {
            return Err(malformed("a line of it is too long"));
        }
        if self.held.ends_with(b"\n") {
            match self.state {
                State::Trailers => self.trailer_line(out)?,
                State::Head | State::Data { .. } | State::Ended => self.head(out)?,
            }
        }
        Ok(end)
    }

    /// A chunk's head is whole: how much data follows.
    fn head(&mut self, out: &mut Vec<u8>) -> Result<(), Denial> {
        let head = std::str::from_utf8(&self.held).ok().and_then(|line| line.strip_suffix("\r\n"));
        let (size, signature) = head
            .and_then(|line| line.split_once(';'))
            .ok_or_else(|| malformed("a chunk has no signature"))?;
        let signed = signature.strip_prefix(CHUNK_SIGNATURE).is_some_and(is_signature);
        let digits = (1..=8).contains(&size.len()) && size.bytes().all(|b| b.is_ascii_hexdigit());
        let size = usize::from_str_radix(size, 16).ok().filter(|_| digits && signed);
        let size = size.ok_or_else(|| malformed("the head of a chunk cannot be read"))?;
        if size > self.most {
            return Err(too_large(size, self.most));
        }
        if size > 0 {
            self.state = State::Data { line: self.held.len(), size };
            return Ok(());
        }
        self.before = self.signer.chunk(&self.before, EMPTY_SHA256);
        let line = self.held.len();
        self.release(line, out);
        self.state = State::Trailers;
        Ok(())
    }

    /// A chunk's data, and the line end behind it; it leaves when it is whole.
    fn data(
        &mut self,
        rest: &[u8],
        line: usize,
        size: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, Denial> {
        let whole = line + size + LINE_END.len();
        let taken = rest.len().min(whole.saturating_sub(self.held.len()));
        self.held.extend_from_slice(rest.get(..taken).unwrap_or_default());
        if self.held.len() < whole {
            return Ok(taken);
        }
        if !self.held.ends_with(LINE_END) {
            return Err(malformed("a chunk is longer than it says"));
        }
        let sha256 = sha256_hex(self.held.get(line..line + size).unwrap_or_default());
        self.before = self.signer.chunk(&self.before, &sha256);
        self.release(line, out);
        self.state = State::Head;
        Ok(taken)
    }

    /// Writes what is held, with the signature of its first `line` bytes replaced.
    fn release(&mut self, line: usize, out: &mut Vec<u8>) {
        let start = line.saturating_sub(SIGNATURE + LINE_END.len());
        out.extend_from_slice(self.held.get(..start).unwrap_or_default());
        out.extend_from_slice(self.before.as_bytes());
        out.extend_from_slice(self.held.get(start + SIGNATURE..).unwrap_or_default());
        self.held.clear();
    }

    /// A line behind the last chunk. Only the empty one ends the body.
    fn trailer_line(&mut self, out: &mut Vec<u8>) -> Result<(), Denial> {
        let ended = self.held == LINE_END || self.held.ends_with(b"\n\r\n");
        if !ended {
            return Ok(());
        }
        if self.trailers {
            self.sign_trailers(out)?;
        } else if self.held != LINE_END {
            return Err(malformed("it has trailers that were not announced"));
        } else {
            out.extend_from_slice(LINE_END);
        }
        self.held.clear();
        self.state = State::Ended;
        Ok(())
    }

    /// All trailers are here, the signature last.
    fn sign_trailers(&mut self, out: &mut Vec<u8>) -> Result<(), Denial> {
        let unreadable = || malformed("its trailers cannot be read");
        let text = std::str::from_utf8(&self.held).map_err(|_error| unreadable())?;
        let at = text.rfind(TRAILER_SIGNATURE).ok_or_else(unreadable)?;
        let (signed, signature) = text.split_at_checked(at).ok_or_else(unreadable)?;
        let signature = signature.strip_prefix(TRAILER_SIGNATURE).ok_or_else(unreadable)?;
        let (old, end) = signature.split_at_checked(SIGNATURE).ok_or_else(unreadable)?;
        if !is_signature(old) || !end.trim_matches(['\r', '\n']).is_empty() {
            return Err(unreadable());
        }
        let lines = signed.lines().filter(|line| !line.is_empty());
        let canonical: String = lines.map(|line| format!("{}\n", line.trim())).collect();
        self.before = self.signer.trailers(&self.before, &sha256_hex(canonical.as_bytes()));
        out.extend_from_slice(signed.as_bytes());
        out.extend_from_slice(TRAILER_SIGNATURE.as_bytes());
        out.extend_from_slice(self.before.as_bytes());
        out.extend_from_slice(end.as_bytes());
        Ok(())
    }
}

fn is_signature(text: &str) -> bool {
    text.len() == SIGNATURE && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn malformed(how: &str) -> Denial {
    Denial::new(
        DenyReason::ProtocolNotAllowed,
        format!("the aws-chunked body cannot be signed: {how}"),
        "send chunks as the SigV4 of S3 says (SIZE;chunk-signature=SIGNATURE)",
    )
}

fn too_large(size: usize, most: usize) -> Denial {
    Denial::new(
        DenyReason::LimitExceeded,
        format!("a signed chunk of {size} bytes; one of at most {most} can be signed anew"),
        "send smaller chunks, or have an operator raise limits.bufferedBody",
    )
    .with_status(413)
}

#[cfg(test)]
mod tests {
    use super::super::sigv4::Scope;
    use super::*;
    use crate::secret::SecretValue;

    const OLD: &str = "0123456789012345678901234567890123456789012345678901234567890123";

    fn chunks(seed: &str, trailers: bool) -> Chunks {
        let secret = b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec();
        let scope = Scope { region: "us-east-1".to_owned(), service: "s3".to_owned() };
        let signer = Signer::new(&SecretValue::new(secret).unwrap(), &scope, "20130524T000000Z");
        Chunks::new(signer, seed.to_owned(), trailers, 64 * 1024)
    }

    fn body(signatures: [&str; 3], end: &str) -> String {
        let [one, two, three] = signatures;
        format!(
            "10000;chunk-signature={one}\r\n{}\r\n400;chunk-signature={two}\r\n{}\r\n0;chunk-signature={three}\r\n{end}",
            "a".repeat(65536),
            "a".repeat(1024),
        )
    }

    fn resigned(chunks: &mut Chunks, body: &str, piece: usize) -> Result<String, Denial> {
        let mut out = Vec::new();
        for piece in body.as_bytes().chunks(piece) {
            chunks.push(piece, &mut out)?;
        }
        chunks.finish()?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The S3 reference, "Signature Calculations: Transferring Payload in Multiple Chunks".
    #[test]
    fn the_example_of_the_s3_reference_at_every_cut() {
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let expected = body(
            [
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ],
            "\r\n",
        );
        let sent = body([OLD; 3], "\r\n");
        for piece in [1, 2, 3, 7, 85, 86, 87, 1000, 65536, usize::MAX] {
            assert!(
                resigned(&mut chunks(seed, false), &sent, piece).unwrap() == expected,
                "{piece}"
            );
        }
    }

    /// The same with trailers ("Transferring Payload in Multiple Chunks with Trailing Headers").
    #[test]
    fn the_example_with_trailers_at_every_cut() {
        let seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
        let trailers = |signature: &str| {
            format!("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{signature}\r\n\r\n")
        };
        let expected = body(
            [
                "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
                "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
                "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
            ],
            &trailers("d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"),
        );
        let sent = body([OLD; 3], &trailers(OLD));
        for piece in [1, 2, 5, 86, 1000, usize::MAX] {
            let out = resigned(&mut chunks(seed, true), &sent, piece).unwrap();
            assert!(out == expected, "{piece}");
        }
    }

    #[test]
    fn malformed_bodies_are_refused() {
        let good = format!("1;chunk-signature={OLD}\r\na\r\n0;chunk-signature={OLD}\r\n\r\n");
        assert!(resigned(&mut chunks("", false), &good, usize::MAX).is_ok());
        for bad in [
            good.replace(";chunk", ";Chunk"),
            good.replace(&format!(";chunk-signature={OLD}"), ""),
            good.replace("\r\na", "\na"),
            good.replace("\r\na\r\n", "\r\nab\r\n"),
            good.replace("1;", "+1;"),
            good.replace("1;", "1 ;"),
            good.replace("1;", "10001;"),
            good.replace("1;", "ffffffffffffffff1;"),
            good.replace(OLD, "0123"),
            format!("{good}x"),
            good.strip_suffix("\r\n").unwrap().to_owned(),
            format!("1;chunk-signature={OLD}\r\na"),
            String::new(),
            "a".repeat(500),
            good.replace("\r\n\r\n", "\r\nx-amz-trailer:1\r\n\r\n"),
        ] {
            for piece in [1, usize::MAX] {
                assert!(resigned(&mut chunks("", false), &bad, piece).is_err(), "{bad:?}");
            }
        }
        let unsigned = good.replace("\r\n\r\n", "\r\nx-amz-checksum-crc32:AAAA\r\n\r\n");
        assert!(resigned(&mut chunks("", true), &unsigned, 1).is_err());
    }
}
