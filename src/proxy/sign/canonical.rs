//! The canonical request of SigV4: method, path, query, headers and the hash of the payload, in the one form that both ends sign.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::sigv4::Scope;

/// Everything but unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, with the separators of a path kept.
const PATH: &AsciiSet = &ENCODED.remove(b'/');

/// The parts of a request that a signature covers.
#[derive(Debug)]
pub(super) struct Canonical<'r> {
    pub(super) method: &'r Method,
    /// The path as it is sent.
    pub(super) path: &'r str,
    /// The query as it is sent, without a signature in it.
    pub(super) query: &'r str,
    /// The authority as it is sent.
    pub(super) host: &'r str,
    pub(super) headers: &'r HeaderMap,
    /// What is signed of the headers, sorted.
    pub(super) signed: &'r [HeaderName],
    /// Hex, or one of the words that stand for a hash.
    pub(super) payload: &'r str,
}

impl Canonical<'_> {
    pub(super) fn text(&self, scope: &Scope) -> String {
        let path = if scope.takes_paths_as_sent() {
            encoded_once(self.path)
        } else {
            encoded_again(self.path)
        };
        let headers: String =
            self.signed.iter().map(|name| format!("{name}:{}\n", self.header(name))).collect();
        format!(
            "{}\n{path}\n{}\n{headers}\n{}\n{}",
            self.method,
            query(self.query),
            names(self.signed),
            self.payload
        )
    }

    /// The values of a name joined by commas, runs of spaces as one.
    fn header(&self, name: &HeaderName) -> String {
        if *name == http::header::HOST {
            return self.host.to_owned();
        }
        let values = self.headers.get_all(name).iter().map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        });
        values.collect::<Vec<_>>().join(",")
    }
}

/// `host;x-amz-date`.
pub(super) fn names(signed: &[HeaderName]) -> String {
    signed.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(";")
}

/// As S3 reads a path: decoded, and encoded in the one way.
fn encoded_once(path: &str) -> String {
    encoded_bytes(path, PATH)
}

/// As the other services do: dot segments and empty ones gone, and what was encoded encoded once more.
fn encoded_again(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let open = path.ends_with('/') && !kept.is_empty();
    let plain = format!("/{}{}", kept.join("/"), if open { "/" } else { "" });
    utf8_percent_encode(&plain, PATH).to_string()
}

/// The parameters in the one encoding, sorted.
fn query(query: &str) -> String {
    let mut parameters: Vec<(String, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (form_encoded(name), form_encoded(value))
        })
        .collect();
    parameters.sort();
    let parameters = parameters.iter().map(|(name, value)| format!("{name}={value}"));
    parameters.collect::<Vec<_>>().join("&")
}

/// Servers read `+` in a query as a space.
fn form_encoded(text: &str) -> String {
    let text =
        if text.contains('+') { Cow::Owned(text.replace('+', "%20")) } else { Cow::Borrowed(text) };
    encoded_bytes(&text, ENCODED)
}

fn encoded_bytes(text: &str, set: &'static AsciiSet) -> String {
    let decoded: Vec<u8> = percent_decode_str(text).collect();
    percent_encoding::percent_encode(&decoded, set).to_string()
}

/// One name or value of a query, as it is written into a URL.
pub(super) fn encoded(text: &[u8]) -> String {
    percent_encoding::percent_encode(text, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::sigv4::{EMPTY_SHA256, Signer};
    use super::*;
    use crate::secret::SecretValue;

    fn signature(
        method: &Method,
        service: &str,
        date: &str,
        target: &str,
        headers: &[(&str, &str)],
        payload: &str,
    ) -> String {
        let (key, host) = match service {
            "s3" => ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "examplebucket.s3.amazonaws.com"),
            _ => ("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "example.amazonaws.com"),
        };
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        let mut signed: Vec<HeaderName> = map.keys().cloned().collect();
        signed.push(http::header::HOST);
        signed.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let scope = Scope { region: "us-east-1".to_owned(), service: service.to_owned() };
        let canonical =
            Canonical { method, path, query, host, headers: &map, signed: &signed, payload };
        let secret = SecretValue::new(key.as_bytes().to_vec()).unwrap();
        Signer::new(&secret, &scope, date).request(&canonical.text(&scope))
    }

    /// The examples of the S3 reference ("Authenticating Requests: Using the Authorization Header").
    #[test]
    fn the_examples_of_the_s3_reference() {
        let date = ("x-amz-date", "20130524T000000Z");
        let hash = ("x-amz-content-sha256", EMPTY_SHA256);
        let sign = |method: &Method, target: &str, headers: &[(&str, &str)], payload: &str| {
            signature(method, "s3", "20130524T000000Z", target, headers, payload)
        };
        assert_eq!(
            sign(&Method::GET, "/test.txt", &[("range", "bytes=0-9"), hash, date], EMPTY_SHA256),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let put = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-content-sha256", put),
            date,
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        assert_eq!(
            sign(&Method::PUT, "/test$file.text", &headers, put),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            sign(&Method::GET, "/?lifecycle", &[hash, date], EMPTY_SHA256),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            sign(&Method::GET, "/?max-keys=2&prefix=J", &[hash, date], EMPTY_SHA256),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    /// The example of the S3 reference for a signature in the query.
    #[test]
    fn the_example_of_a_presigned_url() {
        let target = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host";
        assert_eq!(
            signature(&Method::GET, "s3", "20130524T000000Z", target, &[], "UNSIGNED-PAYLOAD"),
            "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    /// Cases of the SigV4 test suite: `get-vanilla`, `get-vanilla-query-order-key-case`, `post-vanilla`.
    #[test]
    fn cases_of_the_test_suite() {
        let date = ("x-amz-date", "20150830T123600Z");
        for (method, target, expected) in [
            (Method::GET, "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                Method::GET,
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (Method::POST, "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            assert_eq!(
                signature(&method, "service", date.1, target, &[date], EMPTY_SHA256),
                expected,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn paths_are_normalised_and_encoded_again_but_not_for_s3() {
        assert_eq!(encoded_again("/a/./b/../c//d%20e/"), "/a/c/d%2520e/");
        assert_eq!(encoded_again("/"), "/");
        assert_eq!(encoded_again("/.."), "/");
        assert_eq!(encoded_once("/a//b/../c%2fd%20e(1)+~"), "/a//b/../c/d%20e%281%29%2B~");
    }

    #[test]
    fn queries_are_sorted_in_one_encoding() {
        assert_eq!(query("b=2&a=%7e&a=x+y&c&=v&"), "=v&a=x%20y&a=~&b=2&c=");
        assert_eq!(query(""), "");
        assert_eq!(query("prefix=a/b:c&k=%e4"), "k=%E4&prefix=a%2Fb%3Ac");
    }

    #[test]
    fn header_values_are_trimmed_and_joined() {
        let mut headers = HeaderMap::new();
        headers.append("x-amz-meta", "  a   b ".parse().unwrap());
        headers.append("x-amz-meta", "c".parse().unwrap());
        let signed = ["x-amz-meta".parse().unwrap()];
        let canonical = Canonical {
            method: &Method::GET,
            path: "/",
            query: "",
            host: "h",
            headers: &headers,
            signed: &signed,
            payload: EMPTY_SHA256,
        };
        assert_eq!(canonical.header(&signed[0]), "a b,c");
    }
}
