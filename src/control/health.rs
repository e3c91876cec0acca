//! `/healthz`, `/readyz` and `/metrics`: for whoever watches over the process. No key, and so nothing about any one sandbox.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;

use super::{answer, json};
use crate::metrics::Metrics;
use crate::server::Health;

/// The routes.
pub fn router(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { answer(StatusCode::OK, PLAIN, "ok\n") }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(exposition).with_state(metrics))
}

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    let refused = health.refused_reload.load();
    match refused.as_deref() {
        None => json(StatusCode::OK, &Ready { ready: true, reason: None, detail: None }),
        Some(why) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &Ready { ready: false, reason: Some("reload_refused"), detail: Some(why) },
        ),
    }
}

async fn exposition(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.text() {
        Ok(text) => answer(StatusCode::OK, OPEN_METRICS, text),
        Err(_never) => answer(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::exchange;
    use super::*;

    #[tokio::test]
    async fn a_refused_reload_is_not_ready_and_says_why_and_the_process_is_healthy_all_the_while() {
        let health = Arc::new(Health::default());
        let metrics =
            Arc::new(Metrics::new(&Default::default(), &Default::default(), &Default::default()));
        let ask = |path: &'static str| {
            let router = router(health.clone(), metrics.clone());
            async move {
                exchange(
                    router,
                    &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
                )
                .await
            }
        };
        let ready = ask("/readyz").await;
        assert!(
            ready.starts_with("HTTP/1.1 200") && ready.ends_with("{\"ready\":true}"),
            "{ready}"
        );
        health.refused_reload.store(Some(Arc::new("line 3: no".to_owned())));
        let ready = ask("/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("line 3: no"), "{ready}");
        assert!(ask("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask("/metrics").await.trim_end().ends_with("# EOF"));
        assert!(ask("/").await.starts_with("HTTP/1.1 404"));
    }
}
