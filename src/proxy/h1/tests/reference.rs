//! The same rules again, slow and obvious: over a whole stream, with strings, and nothing shared with the guard.

/// A message that is complete and good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Method and target, or the status.
    pub(super) start: String,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// The good requests at the front of a stream.
pub(super) fn requests(mut stream: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some((lines, rest)) = head(stream) {
        let Some((start, framing)) = request(&lines) else { break };
        let Some((body, rest)) = body(framing.unwrap_or(Some(0)), rest) else { break };
        seen.push(Seen { start, head: lines.join("\n"), body });
        stream = rest;
    }
    seen
}

/// The final response at the front of a stream, if it is good and complete.
pub(super) fn response(mut stream: &[u8], to_head: bool, may_switch: bool) -> Option<Seen> {
    loop {
        let (lines, rest) = head(stream)?;
        let (status, framing) = status(&lines)?;
        match status.as_str() {
            "101" if !may_switch => return None,
            "101" => return Some(Seen { start: status, head: lines.join("\n"), body: Vec::new() }),
            interim if interim.starts_with('1') => stream = rest,
            _ => {
                let bodiless = to_head || status == "204" || status == "304";
                let body = match framing {
                    _ if bodiless => Vec::new(),
                    None => rest.to_vec(),
                    Some(framing) => body(framing, rest)?.0,
                };
                return Some(Seen { start: status, head: lines.join("\n"), body });
            }
        }
    }
}

/// The lines of a head as Latin-1, and what follows it.
fn head(stream: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let end = stream.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text: String = stream[..end].iter().map(|&byte| char::from(byte)).collect();
    let lines: Vec<String> = text.split("\r\n").map(String::from).collect();
    let clean = lines.iter().all(|line| !line.contains(['\r', '\n']));
    clean.then(|| (lines, &stream[end + 4..]))
}

/// `None` for no framing, `Some(None)` for chunked.
type Framing = Option<Option<u64>>;

fn request(lines: &[String]) -> Option<(String, Framing)> {
    let words: Vec<&str> = lines[0].split(' ').collect();
    let [method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else { return None };
    let target_is_good = target.bytes().all(|byte| byte.is_ascii_graphic())
        && !target.contains(['\\', '#', '"', '<', '>']);
    if !is_token(method) || target.is_empty() || !target_is_good {
        return None;
    }
    let fields = fields(&lines[1..])?;
    let hosts = all(&fields, "host");
    let host_is_good = |host: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c))
    };
    match hosts[..] {
        [] if method == "CONNECT" && version == "HTTP/1.0" => {}
        [host] if host_is_good(host) => {}
        _ => return None,
    }
    if !all(&fields, "expect").iter().all(|value| value.eq_ignore_ascii_case("100-continue")) {
        return None;
    }
    let framing = framing(&fields, version)?;
    if method == "CONNECT" && framing.is_some() {
        return None;
    }
    Some((format!("{method} {target}"), framing))
}

fn status(lines: &[String]) -> Option<(String, Framing)> {
    let (version, rest) = lines[0].split_once(' ')?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_status =
        status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit()) && status >= "100";
    if !["HTTP/1.1", "HTTP/1.0"].contains(&version) || !is_status || !is_value(reason) {
        return None;
    }
    Some((status.to_owned(), framing(&fields(&lines[1..])?, version)?))
}

fn fields(lines: &[String]) -> Option<Vec<(String, String)>> {
    lines
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            let good = is_token(name) && is_value(value);
            good.then(|| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
        })
        .collect()
}

fn framing(fields: &[(String, String)], version: &str) -> Option<Framing> {
    let lengths = all(fields, "content-length");
    let encodings = all(fields, "transfer-encoding");
    match (&lengths[..], &encodings[..]) {
        ([], []) => Some(None),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) && length.len() < 20 => {
            Some(Some(Some(length.parse().ok()?)))
        }
        ([], [encoding]) if encoding.eq_ignore_ascii_case("chunked") && version == "HTTP/1.1" => {
            Some(Some(None))
        }
        _ => None,
    }
}

/// The body, and what follows it.
fn body(length: Option<u64>, stream: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(length) = length else { return chunked(stream) };
    let (body, rest) = stream.split_at_checked(usize::try_from(length).ok()?)?;
    Some((body.to_vec(), rest))
}

fn chunked(mut stream: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = stream.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&stream[..end]).ok()?;
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        stream = &stream[end + 2..];
        if size == 0 {
            break;
        }
        let (data, rest) = stream.split_at_checked(size)?;
        body.extend_from_slice(data);
        stream = rest.strip_prefix(b"\r\n")?;
    }
    if let Some(rest) = stream.strip_prefix(b"\r\n") {
        return Some((body, rest));
    }
    let (trailers, rest) = head(stream)?;
    fields(&trailers)?;
    Some((body, rest))
}

fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str()).collect()
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn is_value(text: &str) -> bool {
    text.chars().all(|c| c == '\t' || (c >= ' ' && c != '\x7f'))
}
