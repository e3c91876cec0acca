//! The way to token endpoints, which whoever dials provides once it can: nothing here opens a connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use zeroize::Zeroizing;

use super::Fault;
use crate::secret::TokenUrl;

/// Posts forms to token endpoints. Until [`connect`](Self::connect) was called, and in commands that open no connections, every post fails.
#[derive(Clone, Default)]
pub struct TokenEndpoints(Arc<OnceLock<Box<dyn PostForm>>>);

/// Sends one token request over checked, verified TLS and reads one bounded answer. It follows no redirect.
pub trait PostForm: Send + Sync {
    /// Sends it. The caller bounds the time.
    fn post(&self, request: TokenRequest) -> Posting<'_>;
}

/// An answer on its way.
pub type Posting<'a> = Pin<Box<dyn Future<Output = Result<TokenAnswer, Fault>> + Send + 'a>>;

/// A form for a token endpoint.
pub struct TokenRequest {
    /// Where to.
    pub url: TokenUrl,
    /// The client's credentials, if they are not in the body.
    pub authorization: Option<HeaderValue>,
    /// The form, encoded.
    pub body: Zeroizing<Vec<u8>>,
}

/// What the endpoint answered.
pub struct TokenAnswer {
    /// The status.
    pub status: u16,
    /// The body, at most [`TokenAnswer::MOST`] bytes.
    pub body: Zeroizing<Vec<u8>>,
}

impl TokenAnswer {
    /// The longest body that is read.
    pub const MOST: usize = 128 * 1024;
}

impl TokenEndpoints {
    /// Says who posts; once, and the first word stands.
    pub fn connect(&self, post: Box<dyn PostForm>) {
        self.0.get_or_init(|| post);
    }

    pub(super) async fn post(&self, request: TokenRequest) -> Result<TokenAnswer, Fault> {
        self.0.get().ok_or(Fault::Offline)?.post(request).await
    }
}

impl fmt::Debug for TokenEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TokenEndpoints({})",
            if self.0.get().is_some() { "connected" } else { "offline" }
        )
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenRequest({})", self.url)
    }
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenAnswer({})", self.status)
    }
}
