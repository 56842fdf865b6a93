//! A webhook receiver on loopback that checks signatures and keeps what it gets.
//!
//! It does what a receiver of Standard Webhooks should: verify the signature over the raw body, refuse
//! old timestamps, fold what carries an id it has seen. Tests can tell it how to answer.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::sync::Notify;

use crate::deliver::http::{SigningKey, verify};

/// Calls kept; the oldest go first.
const KEPT: usize = 1000;
/// Oldest timestamp accepted, either way (Standard Webhooks).
const TOLERANCE_S: i64 = 300;

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The `webhook-id`, equal in every attempt.
    pub id: String,
    /// Whether the signature was right and the timestamp recent.
    pub genuine: bool,
    /// Whether this id had been accepted before.
    pub again: bool,
    /// What was answered.
    pub status: u16,
    /// The body.
    pub body: serde_json::Value,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Mutex<Vec<Call>>,
    accepted: Mutex<BTreeSet<String>>,
    /// What to answer to the next calls instead of 204.
    answers: Mutex<Vec<u16>>,
    arrived: Notify,
    secret: Option<SigningKey>,
}

/// The running receiver. Stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    /// Listens on a free port of loopback. Without a secret nothing counts as genuine.
    pub async fn start(secret: Option<SigningKey>) -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            secret,
            ..Inner::default()
        });
        let app = Router::new()
            .route("/", post(receive))
            .with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self {
            address,
            inner,
            task,
        })
    }
    /// The URL to post to.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
    /// All calls, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.inner.calls).clone()
    }
    /// Answers the next calls with these statuses, one each; afterwards 204.
    pub fn answer(&self, answers: impl IntoIterator<Item = u16>) {
        lock(&self.inner.answers).extend(answers);
    }
    /// Waits until at least `n` calls came, at most `limit`. True if they did.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> bool {
        let enough = async {
            loop {
                let arrived = self.inner.arrived.notified();
                if lock(&self.inner.calls).len() >= n {
                    return;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(limit, enough).await.is_ok()
    }
}

async fn receive(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let status = {
        let mut answers = lock(&inner.answers);
        if answers.is_empty() {
            204
        } else {
            answers.remove(0)
        }
    };
    let get = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let id = get("webhook-id").to_owned();
    let timestamp: i64 = get("webhook-timestamp").parse().unwrap_or(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
    let genuine = inner.secret.as_ref().is_some_and(|s| {
        (now - timestamp).abs() <= TOLERANCE_S
            && verify(s, &id, timestamp, &body, get("webhook-signature"))
    });
    let again = if (200..300).contains(&status) {
        !lock(&inner.accepted).insert(id.clone())
    } else {
        lock(&inner.accepted).contains(&id)
    };
    {
        let mut calls = lock(&inner.calls);
        if calls.len() == KEPT {
            calls.remove(0);
        }
        calls.push(Call {
            id,
            genuine,
            again,
            status,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        });
    }
    inner.arrived.notify_waiters();
    StatusCode::from_u16(status).unwrap_or(StatusCode::OK)
}
