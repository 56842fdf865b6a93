//! Mail over SMTP, through lettre.
//!
//! STARTTLS is required, never opportunistic: a downgraded connection would show every page to the
//! network. The one exception is loopback, where there is no network. Every body is Base64: lettre
//! up to 0.11.23 passes a bare CR or LF of a body on to the server (RUSTSEC-2026-0561), and Base64 has
//! none. Headers hold fixed words, numbers and names that went through [`render::inert`].
//!
//! Each receiver has a conversation of its own: a server that refuses one of several would refuse the
//! mail to all, and a colleague who left would silence everybody's pages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransport, AsyncSmtpTransportBuilder, PoolConfig};
use lettre::{AsyncTransport as _, Tokio1Executor};
use tokio::task::JoinSet;

use super::{Accepted, Disposition, Message, Reason, SendError, render};

/// The right-hand side of message ids. Never resolved; constant, so that replicas agree.
const ID_DOMAIN: &str = "veilwatch.invalid";
/// Longest wait for one SMTP command. The whole send has ten seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(8);
/// Attempts for receivers that are refused for now while others have the mail: enough for a mailbox that
/// is busy or greylists, too few to hold back what comes next for all.
const ATTEMPTS: u32 = 4;
/// Mails of which some receivers have theirs; beyond that the oldest is forgotten, and they may get it
/// twice.
const PARTLY: usize = 1_000;

/// How to reach the mail server, as configured.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `host:port`, or `smtp://host:port` (STARTTLS), or `smtps://host:port` (TLS from the start).
    pub smtp: String,
    /// Sender; default `veilwatch@localhost`.
    pub from: Option<String>,
    /// Receivers.
    pub to: Vec<String>,
    /// Login name, if the server wants one.
    pub username: Option<String>,
    /// Password, from a file or the environment.
    pub password: Option<crate::telemetry::Secret>,
    /// PEM of a private certificate authority, beside the public ones.
    pub ca_pem: Option<String>,
}

/// Why mail cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not an address of a server.
    #[error("expected host:port, smtp://host:port or smtps://host:port")]
    Server,
    /// Not a mail address.
    #[error("is not a mail address")]
    Address(&'static str),
    /// Nobody to write to.
    #[error("names no receiver")]
    Nobody,
    /// A certificate that cannot be read.
    #[error("not a PEM certificate")]
    Certificate,
    /// A password would travel in the clear.
    #[error("a password is only sent over TLS; use smtps:// or give ca_file")]
    PlainPassword,
}

impl SetupError {
    /// The key of the configuration that is wrong.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Server => "smtp",
            Self::Address(key) => key,
            Self::Nobody => "to",
            Self::Certificate => "ca_file",
            Self::PlainPassword => "username",
        }
    }
}

/// Mail to fixed receivers.
pub struct Email {
    from: Mailbox,
    to: Vec<Mailbox>,
    builder: Box<AsyncSmtpTransportBuilder>,
    /// Made by the first send: its pool starts a task, and a configuration is also checked where no
    /// runtime is.
    transport: OnceLock<AsyncSmtpTransport<Tokio1Executor>>,
    /// By message.
    partly: Mutex<BTreeMap<String, Partly>>,
}

/// Who has a mail that not all have.
#[derive(Debug, Default)]
struct Partly {
    have: BTreeSet<usize>,
    attempts: u32,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email")
            .field("to", &self.to.len())
            .finish_non_exhaustive()
    }
}

impl Email {
    /// Sets the sink up; touches no network.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let (wrapped, host, port) = server(&settings.smtp)?;
        let from = settings.from.as_deref().unwrap_or("veilwatch@localhost");
        let from = from.parse().map_err(|_| SetupError::Address("from"))?;
        let to: Vec<Mailbox> = settings
            .to
            .iter()
            .map(|a| a.parse().map_err(|_| SetupError::Address("to")))
            .collect::<Result<_, _>>()?;
        if to.is_empty() {
            return Err(SetupError::Nobody);
        }
        let loopback =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = if loopback && !wrapped && settings.ca_pem.is_none() {
            if settings.username.is_some() {
                return Err(SetupError::PlainPassword);
            }
            Tls::None
        } else {
            let mut parameters = TlsParameters::builder(host.clone());
            if let Some(pem) = &settings.ca_pem {
                let ca =
                    Certificate::from_pem(pem.as_bytes()).map_err(|_| SetupError::Certificate)?;
                parameters = parameters.add_root_certificate(ca);
            }
            let parameters = parameters
                .build_rustls()
                .map_err(|_| SetupError::Certificate)?;
            if wrapped {
                Tls::Wrapper(parameters)
            } else {
                Tls::Required(parameters)
            }
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(port)
            .tls(tls)
            .timeout(Some(COMMAND_TIMEOUT))
            .pool_config(
                PoolConfig::new()
                    .max_size(4)
                    .idle_timeout(Duration::from_secs(30)),
            );
        if let (Some(user), Some(password)) = (&settings.username, &settings.password) {
            transport = transport.credentials(Credentials::new(
                user.clone(),
                password.reveal().trim().to_owned(),
            ));
        }
        Ok(Self {
            from,
            to,
            builder: Box::new(transport),
            transport: OnceLock::new(),
            partly: Mutex::default(),
        })
    }

    /// Begins a conversation with the mail server and logs in, and sends nothing.
    ///
    /// # Errors
    /// It does not answer, offers no TLS where it must, or refuses the login.
    pub async fn reach(&self) -> Result<(), SendError> {
        let transport = self
            .transport
            .get_or_init(|| (*self.builder).clone().build());
        match transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(SendError::retry(Reason::Connection, "the server hangs up")),
            Err(e) => Err(failed(&e)),
        }
    }

    /// Sends one message: to each receiver by itself.
    ///
    /// # Errors
    /// Nobody got it.
    pub async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let mail: Arc<[u8]> = self.build(message)?.formatted().into();
        let transport = self
            .transport
            .get_or_init(|| (*self.builder).clone().build());
        let have = self.partly(&message.id, |p| {
            p.attempts += 1;
            p.have.clone()
        });
        let mut under_way = JoinSet::new();
        for (n, to) in self
            .to
            .iter()
            .enumerate()
            .filter(|(n, _)| !have.contains(n))
        {
            let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.email.clone()])
                .map_err(|_| SendError::give_up(Reason::Message, "the envelope is empty"))?;
            let (transport, mail) = (transport.clone(), Arc::clone(&mail));
            under_way.spawn(async move {
                let sent = transport.send_raw(&envelope, &mail).await;
                (n, sent.map(drop).map_err(|e| failed(&e)))
            });
        }
        let mut missed: BTreeMap<usize, SendError> = BTreeMap::new();
        while let Some(done) = under_way.join_next().await {
            match done {
                // Noted at once: this future may be dropped when its time is over.
                Ok((n, Ok(()))) => {
                    self.partly(&message.id, |p| p.have.insert(n));
                }
                Ok((n, Err(e))) => {
                    missed.insert(n, e);
                }
                Err(_) => {
                    return Err(SendError::retry(
                        Reason::Connection,
                        "the send was broken off",
                    ));
                }
            }
        }
        let (some, attempts) = self.partly(&message.id, |p| (!p.have.is_empty(), p.attempts));
        let heals = |e: &SendError| matches!(e.disposition, Disposition::Retry { .. });
        let again = missed.values().any(heals) && attempts < ATTEMPTS;
        if !some || !again {
            lock(&self.partly).remove(&message.id);
        }
        let why = missed.iter().next().map_or_else(String::new, |(n, e)| {
            format!("receiver {} of {}: {e}", n + 1, self.to.len())
        });
        match missed.len() {
            0 => Ok(Accepted::default()),
            missed if some => Ok(Accepted { missed, why, again }),
            // Of several reasons, one that time heals: then it is tried again.
            _ => {
                let first = missed
                    .values()
                    .find(|e| heals(e))
                    .or(missed.values().next());
                Err(first.cloned().unwrap_or_else(|| {
                    SendError::give_up(Reason::Message, "the sink names no receiver")
                }))
            }
        }
    }

    fn partly<T>(&self, id: &str, f: impl FnOnce(&mut Partly) -> T) -> T {
        let mut all = lock(&self.partly);
        if all.len() >= PARTLY && !all.contains_key(id) {
            all.pop_first();
        }
        f(all.entry(id.to_owned()).or_default())
    }

    /// The mail: plain text, threaded by incident, marked as written by a machine.
    pub fn build(&self, message: &Message) -> Result<lettre::Message, SendError> {
        let n = &message.notification;
        let give_up = |what: &str| SendError::give_up(Reason::Message, what.to_owned());
        let body = Body::new_with_encoding(render::mail(n), ContentTransferEncoding::Base64)
            .map_err(|_| give_up("the body cannot be encoded"))?;
        let thread = format!("<{}@{ID_DOMAIN}>", n.dedup_key);
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .subject(header(&render::subject(n))?)
            .message_id(Some(format!("<{}@{ID_DOMAIN}>", header(&message.id)?)))
            .in_reply_to(thread.clone())
            .references(thread)
            .raw_header(raw("Auto-Submitted", "auto-generated"))
            .raw_header(raw("X-Veilwatch-Dedup-Key", &n.dedup_key))
            .raw_header(raw("X-Priority", priority(n.severity)));
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        mail.singlepart(
            SinglePart::builder()
                .header(ContentType::TEXT_PLAIN)
                .body(body),
        )
        .map_err(|_| give_up("the mail cannot be built"))
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

fn priority(severity: crate::event::Severity) -> &'static str {
    use crate::event::Severity;
    match severity {
        Severity::Critical => "1",
        Severity::High => "2",
        _ => "3",
    }
}

/// A header value; refused if a line break got this far, since that would start another header.
fn header(value: &str) -> Result<String, SendError> {
    if value.chars().any(char::is_control) {
        return Err(SendError::give_up(
            Reason::Message,
            "a control character in a header",
        ));
    }
    Ok(value.to_owned())
}

/// (TLS from the start?, host, port).
fn server(smtp: &str) -> Result<(bool, String, u16), SetupError> {
    let (wrapped, rest) = match smtp.split_once("://") {
        Some(("smtps", rest)) => (true, rest),
        Some(("smtp", rest)) => (false, rest),
        Some(_) => return Err(SetupError::Server),
        None => (false, smtp),
    };
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => {
            (host, port.parse().map_err(|_| SetupError::Server)?)
        }
        _ => (rest, if wrapped { 465 } else { 587 }),
    };
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() || host.contains(['@', '/', ' ']) {
        return Err(SetupError::Server);
    }
    Ok((wrapped, host.to_owned(), port))
}

/// What a failure of the conversation means.
fn failed(e: &lettre::transport::smtp::Error) -> SendError {
    if let Some(code) = e.status() {
        let number: u16 = code.into();
        let (disposition, reason) = classify(number);
        return SendError {
            disposition,
            reason,
            detail: format!("SMTP status {number}"),
        };
    }
    if e.is_tls() {
        return SendError::retry(Reason::Tls, "TLS failed; check the server's certificate");
    }
    if e.is_timeout() {
        return SendError::retry(Reason::Timeout, "no answer in time");
    }
    if e.is_client() {
        // lettre's word for: STARTTLS is required and was not offered, or a login it does not know.
        return SendError::give_up(
            Reason::Tls,
            "the server offers no STARTTLS, or no login that both know; use smtps:// or another server",
        );
    }
    SendError::retry(
        Reason::Connection,
        "cannot connect, or the connection broke",
    )
}

/// What an SMTP status means: 4yz heals, 5yz does not.
pub fn classify(status: u16) -> (Disposition, Reason) {
    let retry = Disposition::Retry { after: None };
    match status {
        // No login, or a relay that will not take the receivers and says so for every mail.
        530 | 534 | 535 | 538 | 550 | 551 | 553 | 554 => (Disposition::GiveUp, Reason::Auth),
        // Too many connections or mails: the servers' words for a rate limit.
        421 | 450 | 452 => (retry, Reason::RateLimited),
        500..=599 => (Disposition::GiveUp, Reason::Refused),
        _ => (retry, Reason::Server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_smtp_status_is_decided() {
        for status in 100..=599u16 {
            let (d, _) = classify(status);
            let give_up = d == Disposition::GiveUp;
            assert_eq!(give_up, (500..=599).contains(&status), "{status}");
        }
    }

    #[test]
    fn servers_are_read_or_refused() {
        let s = |t: &str| server(t).ok();
        assert_eq!(
            s("mail.example.com:2525"),
            Some((false, "mail.example.com".into(), 2525))
        );
        assert_eq!(
            s("smtp://mail.example.com"),
            Some((false, "mail.example.com".into(), 587))
        );
        assert_eq!(
            s("smtps://mail.example.com/"),
            Some((true, "mail.example.com".into(), 465))
        );
        assert_eq!(s("[::1]:25"), Some((false, "::1".into(), 25)));
        for bad in ["", "http://x", "user@host:25", "host:port", "smtp://"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_configuration_is_checked_without_a_runtime() {
        let settings = Settings {
            smtp: "mail.example.com:587".into(),
            to: vec!["ops@example.com".into()],
            ..Settings::default()
        };
        assert!(Email::new(&settings).is_ok());
    }

    #[test]
    fn a_password_never_travels_in_the_clear() {
        let settings = Settings {
            smtp: "127.0.0.1:25".into(),
            to: vec!["ops@example.com".into()],
            username: Some("u".into()),
            password: Some(crate::telemetry::Secret::new("p")),
            ..Settings::default()
        };
        assert!(matches!(
            Email::new(&settings),
            Err(SetupError::PlainPassword)
        ));
    }
}
