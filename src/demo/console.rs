//! A page to look at while the demo runs: what was put in, what was found, what was sent.
//!
//! One page without a build step, on loopback; it asks for JSON once a second and writes it with
//! `textContent`, so that no string can become markup.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

/// The page.
const PAGE: &str = include_str!("console/page.html");
/// Lines of the commentary that are kept.
const KEPT: usize = 200;

/// What the page shows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Board {
    /// The commentary, newest last.
    pub lines: Vec<String>,
    /// Incidents, newest first: severity, detector, rule, subject, reason, state.
    pub incidents: Vec<[String; 6]>,
    /// Subjects of mails, newest last.
    pub mails: Vec<String>,
    /// Types of webhook calls, newest last.
    pub calls: Vec<String>,
    /// Budgets: subject and percent.
    pub budgets: Vec<(String, f64)>,
    /// Events counted, tokens in the ledger, dead letters.
    pub totals: (i64, i64, i64),
}

/// The board, shared with the show.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Board>>);

impl Shared {
    /// Changes the board.
    pub fn update(&self, f: impl FnOnce(&mut Board)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
    /// Adds a line of the commentary.
    pub fn line(&self, text: &str) {
        self.update(|b| {
            if b.lines.len() == KEPT {
                b.lines.remove(0);
            }
            b.lines.push(text.to_owned());
        });
    }
    fn copy(&self) -> Board {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

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
            .route("/", get(page))
            .route("/board", get(state))
            .with_state(board);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, task })
    }
}

async fn page() -> Response {
    let mut response = PAGE.into_response();
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, "text/html; charset=utf-8");
    set(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    );
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

async fn state(State(board): State<Shared>) -> Json<Board> {
    Json(board.copy())
}
