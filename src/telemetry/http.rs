//! `/livez`, `/readyz` and `/metrics`.
//!
//! Whoever reaches the port must not take what the rest of the process needs (files, memory): at most
//! [`MAX_CONNECTIONS`], the oldest gives way to a new one, and each has [`PATIENCE`] to ask.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::Health;

/// Connections at a time: probes and scrapers are few.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take from its start, or from its last answer, to a whole request, and how long
/// its reader may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a connection lasts, however busy it is.
const LIFETIME: Duration = Duration::from_mins(2);

/// Accepts connections, each bounded in time, so many at most.
struct Bounded {
    listener: TcpListener,
    /// Of the connections that are open, oldest first: what ends them.
    open: VecDeque<oneshot::Sender<()>>,
}

impl axum::serve::Listener for Bounded {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        self.open.retain(|end| !end.is_closed());
        while self.open.len() >= MAX_CONNECTIONS {
            if let Some(oldest) = self.open.pop_front() {
                let _ = oldest.send(());
            }
        }
        let (end, ended) = oneshot::channel();
        self.open.push_back(end);
        let io = Timed {
            stream,
            ended,
            until: Instant::now() + LIFETIME,
            asked_by: Box::pin(tokio::time::sleep(PATIENCE)),
            over: false,
        };
        (io, from)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over or its place is needed.
struct Timed {
    stream: TcpStream,
    ended: oneshot::Receiver<()>,
    until: Instant,
    asked_by: Pin<Box<Sleep>>,
    over: bool,
}

impl Timed {
    /// An error once the time is over; else the task is woken when it is.
    fn check(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        self.over = self.over
            || self.asked_by.as_mut().poll(cx).is_ready()
            || Pin::new(&mut self.ended).poll(cx).is_ready();
        if self.over {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(_))) {
            // It asked and hears: the next request has its own time, but not for ever.
            let next = (Instant::now() + PATIENCE).min(self.until);
            self.asked_by.as_mut().reset(next);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

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
    let listener = TcpListener::bind(listen).await?;
    let bound = listener.local_addr()?;
    let listener = Bounded {
        listener,
        open: VecDeque::new(),
    };
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

/// Serves [`routes`] of a process until it is told to stop. Returns the address that was bound.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve_until(
    listen: SocketAddr,
    health: Health,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> std::io::Result<SocketAddr> {
    let stopped = async move {
        let _ = stop.wait_for(|s| *s).await;
    };
    serve(listen, routes(health), stopped).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn f55_connections_that_say_nothing_take_nothing_from_others() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let at = serve(any, routes(Health::default()), std::future::pending())
            .await
            .expect("bound");
        let mut slow = Vec::new();
        for _ in 0..200 {
            let mut s = TcpStream::connect(at).await.expect("connects");
            let _ = s.write_all(b"GET /liv").await;
            slow.push(s);
        }
        // Another one is answered, and twice on one connection.
        let mut other = TcpStream::connect(at).await.expect("connects");
        for _ in 0..2 {
            other
                .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await
                .expect("asked");
            let mut answer = [0; 12];
            let heard =
                tokio::time::timeout(Duration::from_secs(60), other.read_exact(&mut answer));
            heard.await.expect("in time").expect("answered");
            assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
            let mut rest = vec![0; 4096];
            assert!(other.read(&mut rest).await.expect("the rest") > 0);
        }
        // What came too much ends at once, the rest when its time is over.
        let ended = tokio::time::timeout(Duration::from_secs(60), async {
            for s in &mut slow {
                let mut nothing = Vec::new();
                let _ = s.read_to_end(&mut nothing).await;
            }
        });
        assert!(ended.await.is_ok(), "a slow connection lives on");
    }
}
