//! Multipart bodies (RFC 2046 §5.1): each part is text with the escapes that its own Content-Type says, such as JSON beside a file.
//!
//! What stands around the parts, and their header lines, have no escapes. No token holds a line end, so that none is cut where a part begins or
//! ends, and what is held back is at most the beginning of a delimiter. A part whose head is too long is read without escapes.

use memchr::memmem::Finder;

use super::super::encoding::Encoding;
use super::kind;
use super::text::{Text, Unfit};

/// The state between two pieces of one body.
#[derive(Debug)]
pub(super) struct Multipart {
    pub(super) text: Text,
    /// A line end, two dashes and the boundary. A line end may be a bare LF: who takes such a body takes it here too.
    delimiter: Finder<'static>,
    at: At,
}

#[derive(Debug)]
enum At {
    /// In a part, or in front of the first or behind the last. So many bytes of a delimiter came and are held; those up to `given` were there
    /// before, or nowhere, since a text begins like a line.
    Content { matched: usize, given: usize },
    /// Behind a delimiter: what follows it, up to an empty line. None of it is held.
    Head(Vec<u8>),
}

impl At {
    /// At the beginning of a line.
    const LINE: Self = Self::Content { matched: 1, given: 1 };
    const CONTENT: Self = Self::Content { matched: 0, given: 0 };
}

/// All header lines of a part.
const LONGEST_HEAD: usize = 8 * 1024;

impl Multipart {
    /// For a text without escapes.
    pub(super) fn new(text: Text, boundary: &[u8]) -> Self {
        let delimiter = Finder::new(&[b"\n--", boundary].concat()).into_owned();
        Self { text, delimiter, at: At::LINE }
    }

    /// Takes a piece, and appends what is settled. The text is cut only where its escapes change.
    pub(super) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        let mut piece = Piece { data, passed: 0, at: 0 };
        while !piece.rest().is_empty() {
            match self.at {
                At::Content { matched: 0, .. } => self.content(&mut piece, out)?,
                At::Content { matched, given } => {
                    self.delimiter(&mut piece, matched, given, out)?;
                }
                At::Head(_) => self.head(&mut piece, out)?,
            }
        }
        self.pass(&mut piece, data.len(), out)
    }

    /// The body has ended: appends what is left.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Unfit> {
        if let At::Content { matched, given } = std::mem::replace(&mut self.at, At::LINE) {
            self.release(matched, given, out)?;
        }
        self.text.finish(out)
    }

    /// Content up to the beginning of what may be a delimiter.
    fn content(&mut self, piece: &mut Piece<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let rest = piece.rest();
        let begun = self.delimiter.find(rest).or_else(|| {
            // It holds one line end only, so that no other place than the last can begin it.
            let last = memchr::memrchr(b'\n', rest)?;
            self.delimiter.needle().starts_with(rest.get(last..)?).then_some(last)
        });
        let Some(begun) = begun else {
            piece.at = piece.data.len();
            return Ok(());
        };
        let start = piece.at + begun;
        let whole = start + self.delimiter.needle().len();
        if whole > piece.data.len() {
            return self.hold(piece, start, 0, 0, out);
        }
        self.change(piece, start, Encoding::Raw, out)?;
        piece.at = whole;
        self.at = At::Head(Vec::new());
        Ok(())
    }

    /// What may be a delimiter goes on, or turns out to be none.
    fn delimiter(
        &mut self,
        piece: &mut Piece<'_>,
        matched: usize,
        given: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        let missing = self.delimiter.needle().get(matched..).unwrap_or_default();
        let rest = piece.rest();
        let more = rest.iter().zip(missing).take_while(|(came, wanted)| came == wanted).count();
        if more < missing.len() && more == rest.len() {
            return self.hold(piece, piece.at, matched, given, out);
        }
        let is_whole = more == missing.len();
        if is_whole {
            self.change(piece, piece.at, Encoding::Raw, out)?;
        }
        self.release(matched, given, out)?;
        piece.at += more;
        self.at = if is_whole { At::Head(Vec::new()) } else { At::CONTENT };
        Ok(())
    }

    /// What is left of a piece goes on with a delimiter, of which so much came before.
    fn hold(
        &mut self,
        piece: &mut Piece<'_>,
        from: usize,
        matched: usize,
        given: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        self.pass(piece, from, out)?;
        let end = piece.data.len();
        self.at = At::Content { matched: matched + end - from, given };
        (piece.passed, piece.at) = (end, end);
        Ok(())
    }

    /// What was held is passed on. That is ever so only where nothing of the piece was.
    fn release(&mut self, matched: usize, given: usize, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let held = self.delimiter.needle().get(given..matched).unwrap_or_default();
        self.text.push(held, out)
    }

    /// One line of a head, or as much of it as came.
    fn head(&mut self, piece: &mut Piece<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let At::Head(head) = &mut self.at else { return Ok(()) };
        let rest = piece.rest();
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let line = rest.get(..end).unwrap_or_default();
        let room = LONGEST_HEAD + 1 - head.len();
        head.extend_from_slice(line.get(..room).unwrap_or(line));
        piece.at += end;
        match read(head) {
            Read::Open => {}
            Read::NoPart => self.at = if line.ends_with(b"\n") { At::LINE } else { At::CONTENT },
            Read::Part(encoding) => {
                self.change(piece, piece.at, encoding, out)?;
                self.at = At::LINE;
            }
        }
        Ok(())
    }

    /// From this place on the text has these escapes.
    fn change(
        &mut self,
        piece: &mut Piece<'_>,
        at: usize,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        if self.text.encoding() == encoding {
            return Ok(());
        }
        self.pass(piece, at, out)?;
        self.text.change(encoding, out)
    }

    fn pass(&mut self, piece: &mut Piece<'_>, to: usize, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let stretch = piece.data.get(piece.passed..to).unwrap_or_default();
        piece.passed = to;
        self.text.push(stretch, out)
    }
}

/// What came, how much of it was passed on, and where it is read.
struct Piece<'d> {
    data: &'d [u8],
    passed: usize,
    at: usize,
}

impl<'d> Piece<'d> {
    fn rest(&self) -> &'d [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }
}

/// What a head says, as far as it came.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// More of it must come.
    Open,
    /// It was the last delimiter, a line that only begins like one, or it is too long.
    NoPart,
    /// A part with these escapes follows.
    Part(Encoding),
}

/// Reads the head of a part, from behind the delimiter on.
fn read(head: &[u8]) -> Read {
    let Some(first) = memchr::memchr(b'\n', head) else {
        // Only spaces may follow a delimiter in its line.
        let padded = head.iter().all(u8::is_ascii_whitespace);
        return if padded && head.len() <= LONGEST_HEAD { Read::Open } else { Read::NoPart };
    };
    let (padding, lines) = head.split_at(first + 1);
    if head.len() > LONGEST_HEAD || !padding.trim_ascii().is_empty() {
        return Read::NoPart;
    }
    let ends = [&b"\n"[..], b"\r\n"].contains(&lines)
        || lines.ends_with(b"\n\n")
        || lines.ends_with(b"\n\r\n");
    if ends { Read::Part(kind::text(&content_type(lines))) } else { Read::Open }
}

/// The Content-Type among header lines; one that goes on in the next line is joined (RFC 5322 §2.2.3).
fn content_type(lines: &[u8]) -> Vec<u8> {
    let mut unfolded = Vec::with_capacity(lines.len());
    let mut bytes = lines.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\n' || !matches!(bytes.peek(), Some(b' ' | b'\t')) {
            unfolded.push(byte);
        }
    }
    let value = unfolded.split(|&byte| byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        name.trim_ascii_end().eq_ignore_ascii_case(b"content-type").then(|| value.get(1..))?
    });
    value.map(<[u8]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_part_says_its_escapes() {
        for (head, expected) in [
            ("", Read::Open),
            (" \t\r", Read::Open),
            ("\r\n", Read::Open),
            ("\r\na: b\r\n", Read::Open),
            ("--", Read::NoPart),
            ("--\r\n", Read::NoPart),
            ("x", Read::NoPart),
            ("\r\n\r\n", Read::Part(Encoding::Raw)),
            ("\n\n", Read::Part(Encoding::Raw)),
            ("  \r\nContent-Type: application/json\r\n\r\n", Read::Part(Encoding::Json)),
            ("\ncontent-type:application/a+JSON; a=b\n\n", Read::Part(Encoding::Json)),
            (
                "\r\na: b\r\nCONTENT-TYPE:\r\n application/x-ndjson\r\nc: d\r\n\r\n",
                Read::Part(Encoding::Json),
            ),
            (
                "\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n",
                Read::Part(Encoding::Percent),
            ),
            (
                "\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\n\r\n",
                Read::Part(Encoding::Raw),
            ),
            ("\r\nX-Content-Type: application/json\r\n\r\n", Read::Part(Encoding::Raw)),
        ] {
            assert_eq!(read(head.as_bytes()), expected, "{head:?}");
        }
        assert_eq!(read(&vec![b' '; LONGEST_HEAD + 1]), Read::NoPart);
        assert_eq!(read(format!("\na:{}", "b".repeat(LONGEST_HEAD)).as_bytes()), Read::NoPart);
    }
}
