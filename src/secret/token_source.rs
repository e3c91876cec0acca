//! A value that an OAuth 2 token endpoint gives out (RFC 6749): where it is, and as whom Tollgate asks.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::source::SourceSpec;
use crate::host::{Authority, Destination, Scheme};

/// How an access token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSource {
    /// The token endpoint.
    pub url: TokenUrl,
    /// As whom.
    pub client_id: String,
    /// The client's own secret; public clients have none.
    pub client_secret: Option<SourceSpec>,
    /// Where the client's secret stands in the request.
    pub client_auth: ClientAuth,
    /// On what grounds.
    pub grant: Grant,
    /// What for; the endpoint's own choice if none are named.
    pub scopes: Vec<String>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// The grant that is exchanged for an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The client's own credentials (RFC 6749 §4.4).
    ClientCredentials {
        /// The API that the token is for, where the endpoint wants to know.
        audience: Option<String>,
    },
    /// A refresh token (RFC 6749 §6), which the endpoint may replace by another with each answer.
    RefreshToken(SourceSpec),
}

/// Where a client's secret stands in a token request (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `Authorization: Basic`, which every endpoint must know.
    Basic,
    /// `client_id` and `client_secret` in the body.
    Body,
}

/// The URL of a token endpoint: HTTPS, without userinfo and fragment.
///
/// ```
/// use tollgate::secret::TokenUrl;
/// let url: TokenUrl = "https://Login.example.com/oauth/token".parse().unwrap();
/// assert_eq!(url.to_string(), "https://login.example.com/oauth/token");
/// assert!("http://login.example.com/oauth/token".parse::<TokenUrl>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TokenUrl {
    destination: Destination,
    target: String,
}

impl TokenUrl {
    /// Host and port.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether a request may be read as one to this endpoint by its server, however lenient: doubled slashes, dot segments, escapes, letter
    /// case and path parameters make no difference.
    #[must_use]
    pub fn may_be(&self, destination: &Destination, target: &str) -> bool {
        self.destination == *destination && plain(&self.target) == plain(target)
    }
}

impl FromStr for TokenUrl {
    type Err = TokenUrlError;

    fn from_str(text: &str) -> Result<Self, TokenUrlError> {
        let rest = text.strip_prefix("https://").ok_or(TokenUrlError::NotHttps)?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['#', '\\', '"']) {
            return Err(TokenUrlError::Character);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let authority = Authority::parse(authority)
            .map_err(|error| TokenUrlError::Authority(error.to_string()))?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        let destination = authority.destination(Scheme::Https);
        Ok(Self { destination, target: format!("{slash}{target}") })
    }
}

impl fmt::Display for TokenUrl {
    /// Without the query: some endpoints are told apart by something private in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "https://{}{path}", self.destination.authority(Scheme::Https))
    }
}

impl fmt::Debug for TokenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not the URL of a token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenUrlError {
    /// Credentials travel over TLS only.
    #[error("write a URL that starts with https://, such as https://login.example.com/oauth/token")]
    NotHttps,
    /// A blank, a fragment, a character beyond ASCII.
    #[error("a URL has no blanks and no fragment; percent-encode what is not ASCII")]
    Character,
    /// Its host or port.
    #[error("{0}")]
    Authority(String),
}

/// How often escapes of escapes are read.
const MOST_DECODED: usize = 4;

/// The segments of a path as the most lenient server reads them.
fn plain(target: &str) -> Vec<String> {
    let mut path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    for _ in 0..MOST_DECODED {
        if !path.contains('%') {
            break;
        }
        path = percent_decode_str(&path).decode_utf8_lossy().into_owned();
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_ascii_lowercase()),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> TokenUrl {
        text.parse().unwrap()
    }

    #[test]
    fn only_https_urls_of_a_plain_host_are_token_urls() {
        for bad in [
            "http://a.example.com/token",
            "a.example.com/token",
            "https:///token",
            "https://user:pw@a.example.com/token",
            "https://a.example.com/token#x",
            "https://a.example.com/to ken",
            "https://0x7f.1/token",
            "https://a.example.com:0/token",
            "ftp://a.example.com/",
        ] {
            assert!(bad.parse::<TokenUrl>().is_err(), "{bad}");
        }
        assert_eq!(url("https://a.example.com").target(), "/");
        assert_eq!(url("https://a.example.com?t=1").target(), "/?t=1");
        assert_eq!(
            url("https://a.example.com:8443/x?t=1").to_string(),
            "https://a.example.com:8443/x"
        );
    }

    #[test]
    fn no_spelling_of_its_path_hides_the_endpoint() {
        let endpoint = url("https://a.example.com/oauth/token?tenant=1");
        let (here, there) =
            (endpoint.destination().clone(), url("https://b.example.com").destination().clone());
        for spelling in [
            "/oauth/token",
            "//oauth//token/",
            "/oauth/./token?x=1",
            "/x/../oauth/token",
            "/OAuth/Token",
            "/oauth/%74oken",
            "/oauth/%2574oken",
            "/oauth%2ftoken",
            "/oauth/token;v=1",
            "/oauth\\token",
        ] {
            assert!(endpoint.may_be(&here, spelling), "{spelling}");
            assert!(!endpoint.may_be(&there, spelling), "{spelling}");
        }
        for other in ["/", "/oauth", "/oauth/tokens", "/oauth/token/x", "/api?oauth/token"] {
            assert!(!endpoint.may_be(&here, other), "{other}");
        }
    }
}
