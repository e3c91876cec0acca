//! One request head, walked line by line as it arrives.

use super::{
    HeadLimits,
    grammar::{Field, Framing, FramingFields, Lines, Version, is_token_byte},
    refusal::{HeadRefusal, Malformed},
};

/// The walk over one request head; give it the bytes from the head's first one at every call.
#[derive(Debug, Default)]
pub(super) struct RequestHead {
    lines: Lines,
    has_request_line: bool,
    version: Version,
    connect: bool,
    upgrade: bool,
    host: bool,
    fields: usize,
    framing: FramingFields,
}

/// A whole and accepted head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AcceptedRequest {
    /// Its length, the empty line included.
    pub(super) head_len: usize,
    pub(super) body: Framing,
    /// A CONNECT, or an `Upgrade` without a body: what follows may not be HTTP, and waits for the answer.
    pub(super) hold: bool,
}

impl RequestHead {
    /// Walks the lines that are whole; `None` while the head is not.
    pub(super) fn walk(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<AcceptedRequest>, HeadRefusal> {
        loop {
            let limit = self.limit(limits);
            let window = bytes.get(..limit).unwrap_or(bytes);
            let Some(line) = self.lines.next(window)? else {
                return if bytes.len() < limit { Ok(None) } else { Err(self.too_long()) };
            };
            if !self.has_request_line {
                self.request_line(line, limits)?;
            } else if line.is_empty() {
                return self.finish().map(Some);
            } else {
                self.field(line, limits)?;
            }
        }
    }

    /// How far the current line may reach. A request line that is over long is known before the head is.
    fn limit(&self, limits: &HeadLimits) -> usize {
        if self.has_request_line {
            limits.head_bytes
        } else {
            limits.head_bytes.min(limits.target_bytes.saturating_add(BESIDE_TARGET))
        }
    }

    fn too_long(&self) -> HeadRefusal {
        if self.has_request_line { HeadRefusal::HeadTooLarge } else { HeadRefusal::TargetTooLong }
    }

    /// RFC 9112 section 3, with exactly one space on each side of the target.
    fn request_line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), HeadRefusal> {
        let mut words = line.splitn(3, |&byte| byte == b' ');
        let (Some(method), Some(target), Some(version)) =
            (words.next(), words.next(), words.next())
        else {
            return Err(Malformed::RequestLine.into());
        };
        if method.is_empty() || !method.iter().all(|&byte| is_token_byte(byte)) || target.is_empty()
        {
            return Err(Malformed::RequestLine.into());
        }
        if target.len() > limits.target_bytes {
            return Err(HeadRefusal::TargetTooLong);
        }
        if !is_target(target) || !hyper_reads(target) {
            return Err(Malformed::Target.into());
        }
        self.version = Version::parse(version).ok_or_else(|| refuse_version(version))?;
        self.connect = method == b"CONNECT";
        self.has_request_line = true;
        Ok(())
    }

    fn field(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), HeadRefusal> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(HeadRefusal::TooManyFields);
        }
        let field = Field::parse(line)?;
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case(b"host") => self.host(field.value())?,
            6 if field.name.eq_ignore_ascii_case(b"expect") => expect(field.value())?,
            7 if field.name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            _ => self.framing.note(&field)?,
        }
        Ok(())
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.host {
            return Err(Malformed::HostRepeated);
        }
        if value.is_empty() || !value.iter().all(|&byte| is_host_byte(byte)) {
            return Err(Malformed::Host);
        }
        self.host = true;
        Ok(())
    }

    /// What only the whole head can tell.
    fn finish(&self) -> Result<AcceptedRequest, HeadRefusal> {
        let may_lack_host = self.connect && self.version == Version::Http10;
        if !self.host && !may_lack_host {
            return Err(Malformed::HostMissing.into());
        }
        let body = self.framing.resolve(self.version)?;
        if self.connect && body != Framing::Unstated {
            return Err(Malformed::ConnectBody.into());
        }
        // Only HTTP/1.1 has Upgrade, and hyper reads it so.
        let upgrade = self.upgrade && self.version == Version::Http11;
        let has_body = !matches!(body, Framing::Unstated | Framing::Length(0));
        Ok(AcceptedRequest {
            head_len: self.lines.consumed(),
            body,
            hold: self.connect || (upgrade && !has_body),
        })
    }
}

/// A version that HTTP could have is told apart from noise, for the sake of the status.
fn refuse_version(version: &[u8]) -> HeadRefusal {
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            HeadRefusal::Version
        }
        _ => Malformed::RequestLine.into(),
    }
}

fn expect(value: &[u8]) -> Result<(), HeadRefusal> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(()) } else { Err(HeadRefusal::Expectation) }
}

/// Visible ASCII without what parsers disagree about. `{}|^` and the backtick stay: real clients send them raw.
fn is_target(target: &[u8]) -> bool {
    target.iter().fold(true, |good, &byte| {
        let visible = (byte > 0x20) & (byte < 0x7f);
        let disputed =
            (byte == b'\\') | (byte == b'#') | (byte == b'"') | (byte == b'<') | (byte == b'>');
        good & visible & !disputed
    })
}

/// hyper answers a target that it cannot read by itself, without an audit event; so none gets there. It reads every path
/// of ordinary bytes.
fn hyper_reads(target: &[u8]) -> bool {
    let ordinary = |byte: &u8| !matches!(byte, b'`' | b'^' | b'{' | b'}' | b'|');
    (target.starts_with(b"/") && target.iter().all(ordinary)) || http::Uri::try_from(target).is_ok()
}

/// What a host, an address in brackets and a port are made of; their shape is judged where the authority is parsed.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

/// Room in the request line for the method, two spaces, the version and CRLF.
const BESIDE_TARGET: usize = 64;
