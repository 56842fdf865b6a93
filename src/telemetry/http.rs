//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::Health;

/// The routes, for a server that adds its own.
pub fn routes(health: Health) -> Router {
    Router::new()
        .route(
            "/livez",
            get(|State(h): State<Health>| async move { answer(h.live()) }),
        )
        .route(
            "/readyz",
            get(|State(h): State<Health>| async move { answer(h.ready()) }),
        )
        .route("/metrics", get(exposition))
        .with_state(health)
}

async fn exposition() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        super::metrics().exposition(),
    )
}

fn answer((ok, text): (bool, String)) -> impl IntoResponse {
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, text)
}

/// Serves `routes` on a listener until `stop` ends. Returns the address that was bound.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    routes: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes)
            .with_graceful_shutdown(stop)
            .await
        {
            tracing::error!(%error, "http server stopped");
        }
    });
    Ok(bound)
}
