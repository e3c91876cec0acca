//! stub
use crate::secret::SecretValue;
use std::sync::Arc;
/// stub
#[derive(Debug)]
pub struct LiveSecret;
impl LiveSecret {
    /// stub
    pub fn version(&self) -> u64 {
        0
    }
    /// stub
    pub fn fresh(&self) -> Option<Arc<SecretValue>> {
        None
    }
    /// stub
    pub async fn value(&self) -> Result<Arc<SecretValue>, std::io::Error> {
        Err(std::io::Error::other("x"))
    }
    /// stub
    pub fn held(&self) -> Vec<Arc<SecretValue>> {
        vec![]
    }
}
