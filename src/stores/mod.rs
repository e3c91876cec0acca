//! stub
use crate::secret::{SecretName, SecretValue, SourceSpec};
use std::sync::Arc;
/// stub
#[derive(Debug)]
pub struct LiveSecret(Option<Arc<SecretValue>>);
/// stub
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct SourceError;
impl LiveSecret {
    /// stub
    pub fn new(_n: SecretName, s: SourceSpec, _h: bool) -> Arc<Self> {
        match s {
            SourceSpec::Value(v) => Arc::new(Self(Some(v))),
            _ => Arc::new(Self(None)),
        }
    }
    /// stub
    pub fn version(&self) -> u64 {
        0
    }
    /// stub
    pub fn fresh(&self) -> Option<Arc<SecretValue>> {
        self.0.clone()
    }
    /// stub
    pub async fn value(&self) -> Result<Arc<SecretValue>, SourceError> {
        self.0.clone().ok_or(SourceError)
    }
    /// stub
    pub fn held(&self) -> Vec<Arc<SecretValue>> {
        self.0.clone().into_iter().collect()
    }
}
