//! Between steps 8 and 10: requests are signed with secrets that never travel (`sign` in a policy).
//!
//! What the sandbox signed with sealed tokens is signed anew, for exactly the request that leaves, by exactly the secrets that are bound to its
//! host. Nothing of the sandbox's own signature is believed or forwarded: [`asked`] takes it out before tokens are opened,
//! [`Signing::sign`] puts the real one in when everything else of the request has its final form.
//!
//! A signature with a sealed key id that cannot be made here is refused as `secret_misdirected`, never sent on.

mod aws;
mod canonical;
mod chunks;
mod hmac;
mod sigv4;

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;

use super::forward::Outgoing;
use super::record::Record;
use super::substitute::{OpenedAt, OutgoingBody, Tokens, check_proven};
use super::{Proxy, Via};
use crate::host::Scheme;
use crate::policy::{BoundSecret, Denial, DenyReason, RequestPermit};
use crate::secret::Sign;
use crate::session::{Recognised, Session};

pub(super) use chunks::Chunks;

/// How one request will be signed.
#[derive(Debug)]
pub(super) struct Signing<'s> {
    session: &'s Session,
    permit: &'s RequestPermit,
    aws: Option<aws::Asked>,
    hmac: Vec<Arc<BoundSecret>>,
}

/// Finds out how the request is to be signed, if it is, and takes the sandbox's own signature out of it.
pub(super) fn asked<'s>(
    session: &'s Session,
    permit: &'s RequestPermit,
    recognised: &Recognised,
    via: &Via,
    request: &mut Request<Incoming>,
) -> Result<Option<Signing<'s>>, Denial> {
    let tokens = Tokens { session, permit, forwarded: None };
    let aws = aws::asked(&tokens, request)?;
    let by_hmac = |secret: &&Arc<BoundSecret>| matches!(secret.sign, Some(Sign::Hmac(_)));
    let hmac: Vec<_> = match permit.scheme() {
        Scheme::Https => permit.secrets().iter().filter(by_hmac).cloned().collect(),
        Scheme::Http => Vec::new(),
    };
    for secret in &hmac {
        check_proven(&secret.name, recognised, via)?;
    }
    let needed = aws.is_some() || !hmac.is_empty();
    Ok(needed.then_some(Signing { session, permit, aws, hmac }))
}

impl Signing<'_> {
    /// Signs the request as it will leave.
    pub(super) async fn sign(
        self,
        proxy: &Proxy,
        outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<Outgoing, Denial> {
        let tokens = Tokens { session: self.session, permit: self.permit, forwarded: None };
        let mut outgoing = outgoing;
        if let Some(aws) = self.aws {
            record.opened(aws.opened());
            outgoing.request = aws.sign(&tokens, proxy, outgoing.request).await?;
        }
        for secret in self.hmac {
            let Some(Sign::Hmac(rule)) = &secret.sign else { continue };
            let value = tokens.value(&secret.name).await?;
            outgoing.request = hmac::sign(rule, &value, proxy, outgoing.request).await?;
            record.opened(vec![OpenedAt {
                secret: secret.name.clone(),
                place: format!("sign:{}", rule.header),
            }]);
        }
        Ok(outgoing)
    }
}

/// A body that must be known before the head leaves: it is read whole, within the limit.
async fn whole_body(
    proxy: &Proxy,
    request: Request<OutgoingBody>,
) -> Result<Request<OutgoingBody>, Denial> {
    if request.body().whole().is_some() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let limits = &proxy.limits;
    let body = body.read_whole(limits.response_timeout, limits.buffered_body.get()).await?;
    Ok(Request::from_parts(parts, body))
}

/// A signature that cannot be made.
fn refused(detail: impl Into<String>, hint: &'static str) -> Denial {
    Denial::new(DenyReason::SecretMisdirected, detail.into(), hint)
}
