//! A mail server on loopback that keeps what it gets: the demo shows it, tests read it.
//!
//! A real SMTP conversation (mailin's state machine) over a real socket, with STARTTLS where a
//! certificate is given. Bounded: it keeps the newest [`KEPT`] mails of at most [`MAX_MAIL`] bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use mailin::{Action, Handler, Response, Session, SessionBuilder};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// Mails kept. A demo of an hour sends some hundreds.
const KEPT: usize = 1000;
/// Largest mail accepted.
const MAX_MAIL: usize = 256 * 1024;
/// Longest command or line of a mail.
const MAX_LINE: usize = 4096;
/// Longest silence of a client.
const SILENCE: Duration = Duration::from_mins(1);

/// A mail as it came over the wire.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Receivers of the envelope.
    pub to: Vec<String>,
    /// Headers and body, dots unstuffed, as sent.
    pub raw: String,
    /// Whether the connection was encrypted.
    pub encrypted: bool,
}

impl Mail {
    /// A header's value, unfolded; RFC 2047 words of UTF-8 Base64 are decoded.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.raw.split("\r\n\r\n").next()?.replace("\r\n ", " ");
        let value = head.split("\r\n").find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
        })?;
        Some(decode_words(&value))
    }
    /// The body, decoded.
    pub fn body(&self) -> String {
        let body = self.raw.split_once("\r\n\r\n").map_or("", |(_, b)| b);
        let joined: String = body.split_whitespace().collect();
        base64::engine::general_purpose::STANDARD
            .decode(joined)
            .ok()
            .and_then(|b| String::from_utf8(b).ok())
            .unwrap_or_else(|| body.to_owned())
    }
}

/// Decodes `=?utf-8?b?…?=` words; adjoining ones run together, as RFC 2047 wants.
fn decode_words(value: &str) -> String {
    let mut out = String::new();
    let mut after_word = false;
    for part in value.split(' ') {
        let word = part
            .strip_prefix("=?utf-8?b?")
            .or_else(|| part.strip_prefix("=?UTF-8?B?"))
            .and_then(|p| p.strip_suffix("?="))
            .and_then(|b| base64::engine::general_purpose::STANDARD.decode(b).ok())
            .and_then(|b| String::from_utf8(b).ok());
        let joined = after_word && word.is_some();
        if !out.is_empty() && !joined {
            out.push(' ');
        }
        after_word = word.is_some();
        out.push_str(word.as_deref().unwrap_or(part));
    }
    out
}

#[derive(Default)]
struct Shared {
    mails: Mutex<Vec<Mail>>,
    /// Answers to the next receivers named instead of 250, for tests.
    refusals: Mutex<Vec<u16>>,
    /// Answers to receivers by name, each time, for tests.
    unwanted: Mutex<std::collections::BTreeMap<String, u16>>,
    arrived: Notify,
}

/// The running server. Stops when dropped.
pub struct Mailbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", self.address)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mailbox {
    /// Listens on a free port of loopback. With `tls` it offers STARTTLS.
    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(serve(
            listener,
            Arc::clone(&shared),
            tls.map(TlsAcceptor::from),
        ));
        Ok(Self {
            address,
            shared,
            task,
        })
    }
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// What has arrived, oldest first.
    pub fn mails(&self) -> Vec<Mail> {
        lock(&self.shared.mails).clone()
    }
    /// Refuses the next receivers with these codes, one each, before accepting again.
    pub fn refuse(&self, codes: &[u16]) {
        lock(&self.shared.refusals).extend(codes);
    }
    /// Refuses a receiver with this code, whenever it is named; 0 accepts it again.
    pub fn refuse_receiver(&self, address: &str, code: u16) {
        let mut unwanted = lock(&self.shared.unwanted);
        unwanted.remove(address);
        if code > 0 {
            unwanted.insert(address.to_owned(), code);
        }
    }
    /// Waits until at least `n` mails have arrived, at most `limit`. True if they have.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> bool {
        let enough = async {
            loop {
                let arrived = self.shared.arrived.notified();
                if lock(&self.shared.mails).len() >= n {
                    return;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(limit, enough).await.is_ok()
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = converse(stream, peer.ip(), &shared, tls).await;
        });
    }
}

/// Collects one mail at a time for mailin.
struct Collect {
    shared: Arc<Shared>,
    to: Vec<String>,
    data: Vec<u8>,
    encrypted: bool,
}

impl Handler for Collect {
    fn rcpt(&mut self, to: &str) -> Response {
        let to = to.trim_matches(['<', '>']);
        if let Some(code) = lock(&self.shared.unwanted).get(to) {
            return Response::custom(*code, "as you wish".to_owned());
        }
        let mut refusals = lock(&self.shared.refusals);
        if refusals.is_empty() {
            return mailin::response::OK;
        }
        Response::custom(refusals.remove(0), "as you wish".to_owned())
    }
    fn data_start(&mut self, _domain: &str, _from: &str, _is8bit: bool, to: &[String]) -> Response {
        to.clone_into(&mut self.to);
        self.data.clear();
        mailin::response::OK
    }
    fn data(&mut self, buf: &[u8]) -> io::Result<()> {
        if self.data.len() + buf.len() > MAX_MAIL {
            return Err(io::Error::other("mail too large"));
        }
        self.data.extend_from_slice(buf);
        Ok(())
    }
    fn data_end(&mut self) -> Response {
        let mail = Mail {
            to: std::mem::take(&mut self.to),
            raw: String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned(),
            encrypted: self.encrypted,
        };
        let mut mails = lock(&self.shared.mails);
        if mails.len() == KEPT {
            mails.remove(0);
        }
        mails.push(mail);
        drop(mails);
        self.shared.arrived.notify_waiters();
        mailin::response::OK
    }
}

async fn converse(
    stream: TcpStream,
    peer: IpAddr,
    shared: &Arc<Shared>,
    tls: Option<TlsAcceptor>,
) -> io::Result<()> {
    let mut builder = SessionBuilder::new("mailbox.veilwatch.invalid");
    if tls.is_some() {
        builder.enable_start_tls();
    }
    let handler = |encrypted| Collect {
        shared: Arc::clone(shared),
        to: Vec::new(),
        data: Vec::new(),
        encrypted,
    };
    let mut stream = BufReader::new(stream);
    let mut session = builder.build(peer, handler(false));
    write(&mut stream, &session.greeting()).await?;
    match (talk(&mut stream, &mut session).await?, tls) {
        (Ended::UpgradeTls, Some(acceptor)) => {
            // What the client sent before the handshake is not read as encrypted (STARTTLS injection).
            if !stream.buffer().is_empty() {
                return Err(io::Error::other("commands after STARTTLS"));
            }
            let mut stream = BufReader::new(acceptor.accept(stream.into_inner()).await?);
            let mut session = builder.build(peer, handler(true));
            session.tls_active();
            talk(&mut stream, &mut session).await.map(|_| ())
        }
        _ => Ok(()),
    }
}

enum Ended {
    Closed,
    UpgradeTls,
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    session: &mut Session<Collect>,
) -> io::Result<Ended> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = async {
            use tokio::io::AsyncReadExt as _;
            (&mut *stream)
                .take(MAX_LINE as u64)
                .read_until(b'\n', &mut line)
                .await
        };
        match tokio::time::timeout(SILENCE, read).await {
            Ok(Ok(0)) | Err(_) => return Ok(Ended::Closed),
            Ok(Err(e)) => return Err(e),
            Ok(Ok(_)) => {}
        }
        let response = session.process(&line);
        write(stream, &response).await?;
        match response.action {
            Action::Close => return Ok(Ended::Closed),
            Action::UpgradeTls => return Ok(Ended::UpgradeTls),
            Action::Reply | Action::NoReply => {}
        }
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    response: &Response,
) -> io::Result<()> {
    let bytes = response.buffer()?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}
