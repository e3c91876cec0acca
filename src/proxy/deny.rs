//! Where any step may end: one denial as the answer that its client understands. No status is chosen anywhere else.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Version};
use serde::Serialize;

use super::Via;
use super::forward::AnswerBody;
use super::h1::HeadRefusal;
use super::record::Record;
use crate::policy::{Denial, DenyReason};

/// How the client reads a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// A gRPC status in trailers-only form.
    Grpc,
}

impl Form {
    /// By what the request says of itself.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let grpc = content_type.is_some_and(|value| value.starts_with(b"application/grpc"));
        if grpc && request.version() == Version::HTTP_2 && request.method() == Method::POST {
            Self::Grpc
        } else {
            Self::Problem
        }
    }
}

/// Turns a denial into the answer, and records it.
pub(super) fn answer(
    denial: &Denial,
    form: Form,
    via: &Via,
    mut record: Record,
) -> Response<AnswerBody> {
    record.denied(denial);
    let status = StatusCode::from_u16(denial.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut answer = match form {
        Form::Problem => problem(denial, status, record),
        Form::Grpc => grpc(denial, status, record),
    };
    let headers = answer.headers_mut();
    headers.insert(DENY_REASON, HeaderValue::from_static(denial.reason.as_str()));
    headers.insert(PROXY_ERROR, HeaderValue::from_static(proxy_error(denial.reason)));
    if let Ok(value) = HeaderValue::try_from(format!(
        "tollgate; error={}; details=\"{}\"",
        proxy_status(denial.reason),
        denial.reason
    )) {
        headers.insert(PROXY_STATUS, value);
    }
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        headers.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tollgate\""));
    }
    if via.verdicts.get().is_some() && ends_connection(denial) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Whoever reads requests in another way than we do, or wants a tunnel inside a tunnel, sends no further request on this connection.
fn ends_connection(denial: &Denial) -> bool {
    matches!(denial.reason, DenyReason::HostMismatch | DenyReason::ProtocolNotAllowed)
        || denial.status() == StatusCode::METHOD_NOT_ALLOWED.as_u16()
}

const DENY_REASON: HeaderName = HeaderName::from_static("x-deny-reason");
const PROXY_ERROR: HeaderName = HeaderName::from_static("x-proxy-error");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The problem document.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    reason: DenyReason,
    host: Cow<'a, str>,
    detail: Cow<'a, str>,
    hint: Cow<'a, str>,
    #[serde(rename = "sandboxID", skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a crate::secret::SandboxId>,
    #[serde(rename = "requestID", skip_serializing_if = "Option::is_none")]
    request_id: Option<crate::audit::RequestId>,
}

fn problem(denial: &Denial, status: StatusCode, mut record: Record) -> Response<AnswerBody> {
    let document = Problem {
        r#type: format!("urn:tollgate:reason:{}", denial.reason),
        title: denial.reason.title(),
        status: status.as_u16(),
        reason: denial.reason,
        host: record.host(),
        detail: record.told(&denial.detail),
        hint: record.told(&denial.hint),
        sandbox_id: record.sandbox(),
        request_id: record.id(),
    };
    let mut body = serde_json::to_vec(&document).unwrap_or_default();
    body.push(b'\n');
    record.answered(status.as_u16());
    let mut answer = Response::new(AnswerBody::own(Bytes::from(body), record));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

/// gRPC reads its status from headers of an empty 200 (gRPC over HTTP/2, "Trailers-Only").
fn grpc(denial: &Denial, status: StatusCode, mut record: Record) -> Response<AnswerBody> {
    let code = match status.as_u16() {
        407 => "16",
        408 | 413 | 414 | 429 | 431 => "8",
        500..=599 => "14",
        _ => "7",
    };
    let message = format!("{}: {} ({})", denial.reason, denial.detail, denial.hint);
    let message = record.told(&message);
    let message = percent_encoding::utf8_percent_encode(&message, GRPC_MESSAGE).to_string();
    record.answered(200);
    let mut answer = Response::new(AnswerBody::own(Bytes::new(), record));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    answer
}

/// What `grpc-message` percent-encodes: all but printable ASCII, and the percent sign.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

fn proxy_error(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::HostNotAllowed
        | DenyReason::PortNotAllowed
        | DenyReason::SchemeNotAllowed
        | DenyReason::MethodNotAllowed
        | DenyReason::PathNotAllowed
        | DenyReason::HostDenied
        | DenyReason::AddressNotAllowed => "blocked-by-allowlist",
        DenyReason::SecretMisdirected
        | DenyReason::SecretExposed
        | DenyReason::SecretRequiresTls => "blocked-by-secret-policy",
        DenyReason::HostMismatch | DenyReason::ProtocolNotAllowed => "malformed-request",
        DenyReason::SandboxUnknown | DenyReason::SessionExpired => "sandbox-unknown",
        DenyReason::SecretUnavailable | DenyReason::LimitExceeded => "unavailable",
        DenyReason::UpstreamUnresolvable
        | DenyReason::UpstreamUnreachable
        | DenyReason::UpstreamTls
        | DenyReason::UpstreamTimeout => "upstream-failed",
    }
}

/// The error type of RFC 9209 §2.3 that comes nearest.
fn proxy_status(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::AddressNotAllowed => "destination_ip_prohibited",
        DenyReason::ProtocolNotAllowed | DenyReason::HostMismatch => "http_request_error",
        DenyReason::LimitExceeded | DenyReason::SecretUnavailable => "proxy_internal_response",
        DenyReason::UpstreamUnresolvable => "dns_error",
        DenyReason::UpstreamUnreachable => "destination_unavailable",
        DenyReason::UpstreamTls => "tls_protocol_error",
        DenyReason::UpstreamTimeout => "connection_timeout",
        DenyReason::HostNotAllowed
        | DenyReason::PortNotAllowed
        | DenyReason::SchemeNotAllowed
        | DenyReason::MethodNotAllowed
        | DenyReason::PathNotAllowed
        | DenyReason::HostDenied
        | DenyReason::SecretMisdirected
        | DenyReason::SecretExposed
        | DenyReason::SecretRequiresTls
        | DenyReason::SandboxUnknown
        | DenyReason::SessionExpired => "http_request_denied",
    }
}

/// A head that the strict reading refused.
pub(super) fn of_head(refusal: HeadRefusal) -> Denial {
    let (reason, status, hint) = match refusal {
        HeadRefusal::TargetTooLong => (
            DenyReason::LimitExceeded,
            414,
            "shorten the URL, or have an operator raise limits.target",
        ),
        HeadRefusal::HeadTooLarge => (
            DenyReason::LimitExceeded,
            431,
            "send smaller header fields, or have an operator raise limits.headers",
        ),
        HeadRefusal::TooManyFields => (
            DenyReason::LimitExceeded,
            431,
            "send fewer header fields, or have an operator raise limits.fields",
        ),
        HeadRefusal::Expectation => {
            (DenyReason::ProtocolNotAllowed, 417, "the only expectation is 100-continue")
        }
        HeadRefusal::Version => {
            (DenyReason::ProtocolNotAllowed, 505, "speak HTTP/1.1, or HTTP/2 inside TLS")
        }
        HeadRefusal::Malformed(_) | HeadRefusal::OutOfStep => {
            (DenyReason::ProtocolNotAllowed, 400, "send a well-formed request (RFC 9112)")
        }
    };
    Denial::new(reason, refusal.to_string(), hint).with_status(status)
}
