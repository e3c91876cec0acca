//! TLS to both sides: the authority and its leaves towards the client, platform roots towards the upstream.
//!
//! In the order of a connection: [`client_hello`] reads what the client asks for; after the decision [`leaf`] mints a certificate under the
//! [`ca`] for exactly that host; [`upstream`] verifies the real server against [`roots`], among which our own authority never is.
//! [`seal_key`] lives beside the authority and is guarded the same way.

pub mod ca;
pub mod client_hello;
mod key_dir;
pub mod leaf;
pub mod roots;
pub mod seal_key;
pub mod upstream;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use key_dir::KeyDirError;

/// The one provider of cryptography, named outright: the process default would be ambiguous if a dependency brought a second one.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}
