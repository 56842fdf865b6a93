//! A page to look at while the demo runs: incidents, what was put in, budgets, messages, SQL.
//!
//! Three files without a build step, on loopback. The page asks for JSON once a second and writes it
//! with `textContent`; the content policy allows nothing but the page's own script and style. The
//! answers name a login that reads the views of the private database, so only requests that ask for a loopback host are
//! answered: a page from elsewhere that had its name resolved to this machine gets nothing.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::board::Shared;
use super::live::now;

/// Nothing but the page's own files; `data:` for the empty icon.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Sent with every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The running console. Stops when dropped.
#[derive(Debug)]
pub struct Console {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Console {
    /// Listens on a free port of loopback.
    pub async fn start(board: Shared) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let app = Router::new()
            .route(
                "/",
                get(|| file("text/html", include_str!("console/page.html"))),
            )
            .route(
                "/page.css",
                get(|| file("text/css", include_str!("console/page.css"))),
            )
            .route(
                "/page.js",
                get(|| file("text/javascript", include_str!("console/page.js"))),
            )
            .route(
                "/board",
                get(async |State(b): State<Shared>| Json(b.copy(now()))),
            )
            .layer(middleware::from_fn(guard))
            .with_state(board);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, task })
    }
}

fn file(kind: &'static str, text: &'static str) -> impl Future<Output = Response> {
    let kind = format!("{kind}; charset=utf-8");
    std::future::ready(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Refuses other hosts' names, and sets the headers of every answer.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let mut response = if matches!(name, "127.0.0.1" | "localhost") {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1").into_response()
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
