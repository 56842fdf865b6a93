//! Sinks over HTTP: signed webhook (Standard Webhooks), PagerDuty Events v2, Slack, Alertmanager v2.
//!
//! They differ in body, headers and what an answer means; connecting, time limits and the refusal of
//! redirects, proxies and private addresses are the same for all. The answer's body is never read
//! into a log: it may echo the request.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use sha2::Sha256;

use super::address::{Guard, Private, is_public};
use super::{Disposition, MAX_RETRY_AFTER, Message, Reason, SEND_TIMEOUT, SendError, render};
use crate::telemetry::Secret;

/// PagerDuty's address for events.
pub const PAGERDUTY_URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Longest wait for a connection. The rest of the ten seconds is for the answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest secret of a webhook that cannot be guessed, in bytes (Standard Webhooks asks for 24–64).
const MIN_SECRET: usize = 24;

/// Which service listens.
#[derive(Debug, Clone)]
pub enum Service {
    /// Standard Webhooks; without a secret unsigned, which `config check` warns about.
    Webhook {
        /// Signing secrets; two during a rotation.
        secrets: Vec<SigningKey>,
    },
    /// PagerDuty Events v2.
    PagerDuty {
        /// The integration's key.
        routing_key: Secret,
    },
    /// Slack incoming webhook (the URL is the secret).
    Slack,
    /// Alertmanager v2.
    Alertmanager,
}

/// A webhook's signing secret. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Parses a secret: `whsec_` and Base64, or the bytes as they are.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        let bytes = match text.strip_prefix("whsec_") {
            Some(b64) => STANDARD
                .decode(b64)
                .map_err(|_| "what follows whsec_ is not Base64")?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.is_empty() {
            return Err("the secret is empty; make one with: openssl rand -base64 32");
        }
        Ok(Self(bytes))
    }
    /// Whether somebody could guess it; worth a warning, since some receivers hand out short ones.
    pub fn is_weak(&self) -> bool {
        self.0.len() < MIN_SECRET
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// A sink over HTTP.
pub struct Http {
    service: Service,
    url: Url,
    client: reqwest::Client,
}

/// Shows where it goes, and nothing of the path: that of a webhook may be all that is needed to post.
impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("service", &self.service)
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

/// Why a sink over HTTP cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not a URL.
    #[error("not a URL; expected for example https://hooks.example.com/veilwatch")]
    Url,
    /// Neither https nor meant for this machine.
    #[error(
        "only https is allowed, except towards loopback; set allow_private = true to send unencrypted inside your network"
    )]
    Plain,
    /// A literal address that is not allowed.
    #[error("a private address; set allow_private = true for this sink if that is meant")]
    Private,
    /// A name and password in the URL would end up in logs of proxies.
    #[error("credentials in the URL; use secret_file")]
    Credentials,
    /// The HTTP client could not be built.
    #[error("the HTTP client cannot be built (are the system's root certificates installed?)")]
    Client,
}

impl Http {
    /// Sets the sink up; touches no network.
    pub fn new(service: Service, url: &str, allow_private: bool) -> Result<Self, SetupError> {
        let url = Url::parse(url).map_err(|_| SetupError::Url)?;
        let host = url.host_str().ok_or(SetupError::Url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SetupError::Credentials);
        }
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        // Written out by the operator: loopback is meant, any other private address needs a word.
        let loopback = host == "localhost" || literal.is_some_and(|ip| ip.is_loopback());
        if literal.is_some_and(|ip| !loopback && !allow_private && !is_public(ip)) {
            return Err(SetupError::Private);
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback || allow_private => {}
            "http" => return Err(SetupError::Plain),
            _ => return Err(SetupError::Url),
        }
        // The process has one TLS provider; a second installation is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(SEND_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("veilwatch/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Guard {
                allow_private: allow_private || loopback,
            })
            .build()
            .map_err(|_| SetupError::Client)?;
        Ok(Self {
            service,
            url,
            client,
        })
    }

    /// Asks whether the receiver's server answers, with the certificate that it must have. Nothing of the
    /// path is asked for, and nobody is told anything.
    ///
    /// # Errors
    /// It does not.
    pub async fn reach(&self) -> Result<(), SendError> {
        let mut server = self.url.clone();
        server.set_path("/");
        server.set_query(None);
        let asked = self.client.head(server).send().await;
        asked.map(drop).map_err(|e| failed(&e))
    }

    /// Sends one message.
    pub async fn send(&self, message: &Message) -> Result<(), SendError> {
        let n = &message.notification;
        let body = match &self.service {
            Service::Webhook { .. } => render::webhook(message),
            Service::PagerDuty { routing_key } => render::pagerduty(n, routing_key.reveal().trim()),
            Service::Slack => render::slack(n),
            Service::Alertmanager => render::alertmanager(n),
        }
        .to_string();
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json");
        if let Service::Webhook { secrets } = &self.service {
            let now = unix_seconds();
            request = request
                .header("webhook-id", &message.id)
                .header("webhook-timestamp", now.to_string());
            if !secrets.is_empty() {
                request = request.header(
                    "webhook-signature",
                    sign(secrets, &message.id, now, body.as_bytes()),
                );
            }
        }
        match request.body(body).send().await {
            Ok(answer) => judge(answer.status(), answer.headers()),
            Err(e) => Err(failed(&e)),
        }
    }
}

fn unix_seconds() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
}

/// The `webhook-signature` header: one `v1,` signature per secret.
pub fn sign(secrets: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let all: Vec<String> = secrets
        .iter()
        .map(|s| format!("v1,{}", STANDARD.encode(mac(s, id, timestamp, body))))
        .collect();
    all.join(" ")
}

fn mac(secret: &SigningKey, id: &str, timestamp: i64, body: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut h = Hmac::<Sha256>::new_from_slice(&secret.0).expect("any length");
    h.update(id.as_bytes());
    h.update(b".");
    h.update(timestamp.to_string().as_bytes());
    h.update(b".");
    h.update(body);
    h.finalize().into_bytes().to_vec()
}

/// Whether one of the signatures in a header is ours; for receivers (the demo's, and tests).
pub fn verify(secret: &SigningKey, id: &str, timestamp: i64, body: &[u8], header: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    let ours = mac(secret, id, timestamp, body);
    header
        .split(' ')
        .filter_map(|s| s.strip_prefix("v1,"))
        .filter_map(|s| STANDARD.decode(s).ok())
        .any(|theirs| bool::from(theirs.ct_eq(&ours)))
}

/// What an answer means.
fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), SendError> {
    let code = status.as_u16();
    let Some((disposition, reason)) = classify(code, retry_after(headers)) else {
        return Ok(());
    };
    Err(SendError {
        disposition,
        reason,
        detail: format!("status {code}"),
    })
}

/// What a status means, alike for all services; `None` is success.
pub fn classify(status: u16, after: Option<Duration>) -> Option<(Disposition, Reason)> {
    let retry = Disposition::Retry { after };
    Some(match status {
        // Slack answers 200 and nothing else; a 202 there is a proxy's, but still a yes.
        200..=299 => return None,
        300..=399 => (Disposition::GiveUp, Reason::Redirect),
        // Slack says 404 or 410 when the channel or webhook is gone, others when the endpoint is.
        401 | 403 | 404 | 407 | 410 => (Disposition::GiveUp, Reason::Auth),
        408 | 425 => (retry, Reason::Timeout),
        429 => (retry, Reason::RateLimited),
        // Alertmanager answers 400 to what it cannot parse; PagerDuty asks never to repeat it.
        400..=499 => (Disposition::GiveUp, Reason::Refused),
        // Above 599 and below 200 stand broken servers.
        _ => (retry, Reason::Server),
    })
}

/// `Retry-After` in seconds or as a date, capped.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = value.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let date = jiff::fmt::rfc2822::parse(value).ok()?;
        let ms = date.timestamp().as_millisecond() - unix_seconds() * 1000;
        Duration::from_millis(u64::try_from(ms).ok()?)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Why no answer came. The error's own text names the URL, which may be a secret: it is not used.
fn failed(e: &reqwest::Error) -> SendError {
    if caused_by::<Private>(e).is_some() {
        return SendError::give_up(Reason::Address, Private.to_string());
    }
    if caused_by::<rustls::Error>(e).is_some() {
        return SendError::retry(Reason::Tls, "TLS failed; check the receiver's certificate");
    }
    if e.is_timeout() {
        return SendError::retry(Reason::Timeout, "no answer in time");
    }
    let kind = caused_by::<std::io::Error>(e).map(std::io::Error::kind);
    let detail = match (e.is_connect(), kind) {
        (true, Some(kind)) => format!("cannot connect: {kind}"),
        (true, None) => "cannot connect".to_owned(),
        (false, Some(kind)) => format!("the connection broke: {kind}"),
        (false, None) => "the connection broke".to_owned(),
    };
    SendError::retry(Reason::Connection, detail)
}

/// The first cause of a given type. `io::Error` hides what it wraps from `source`, so look inside.
fn caused_by<'a, E: std::error::Error + 'static>(
    e: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<E>() {
            return Some(found);
        }
        if let Some(inner) = e
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            && let Some(found) = caused_by::<E>(inner)
        {
            return Some(found);
        }
        next = e.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_the_published_example() {
        // The example of the Standard Webhooks libraries.
        let secret = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("secret");
        let body = br#"{"test": 2432232314}"#;
        let header = sign(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert!(verify(
            &secret,
            id,
            1_614_265_330,
            body,
            &format!("v1,AAAA {header}")
        ));
        assert!(!verify(&secret, id, 1_614_265_331, body, &header));
        assert!(!verify(&secret, id, 1_614_265_330, b"{}", &header));
    }

    #[test]
    fn every_status_is_decided() {
        for status in 100..=599u16 {
            let got = classify(status, None);
            let want = match status {
                200..=299 => None,
                100..=199 | 408 | 425 | 429 | 500..=599 => Some(true),
                _ => Some(false),
            };
            let retried = got.map(|(d, _)| matches!(d, Disposition::Retry { .. }));
            assert_eq!(retried, want, "{status}");
        }
    }

    #[test]
    fn retry_after_is_honoured_and_capped() {
        let with = |v: &str| {
            let mut h = HeaderMap::new();
            h.insert(RETRY_AFTER, v.parse().expect("header"));
            retry_after(&h)
        };
        assert_eq!(with("7"), Some(Duration::from_secs(7)));
        assert_eq!(with("86400"), Some(MAX_RETRY_AFTER));
        assert_eq!(with("Wed, 21 Oct 2099 07:28:00 GMT"), Some(MAX_RETRY_AFTER));
        assert_eq!(with("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(with("soon"), None);
        assert_eq!(with("-1"), None);
    }

    #[test]
    fn urls_that_could_leak_or_stray_are_refused() {
        let hook = || Service::Webhook { secrets: vec![] };
        for bad in [
            "http://hooks.example.com/x",
            "ftp://hooks.example.com/x",
            "https://user:pw@hooks.example.com/",
            "https://169.254.169.254/latest",
            "https://[::ffff:10.0.0.1]/",
            "http://10.0.0.1/",
            "nonsense",
            "",
        ] {
            assert!(Http::new(hook(), bad, false).is_err(), "{bad}");
        }
        for good in [
            "https://hooks.example.com/x",
            "http://127.0.0.1:8080/x",
            "http://[::1]:1/",
        ] {
            assert!(Http::new(hook(), good, false).is_ok(), "{good}");
        }
        assert!(Http::new(hook(), "http://10.0.0.1/", true).is_ok());
    }

    #[test]
    fn secrets_do_not_show() {
        let s = Secret::new("squirrel-7f3a");
        assert_eq!(
            format!("{:?}", SigningKey::parse(&"squirrel".repeat(4))),
            "Ok(<secret>)"
        );
        let sink = Http::new(Service::PagerDuty { routing_key: s }, PAGERDUTY_URL, false);
        assert!(!format!("{sink:?}").contains("squirrel"));
        let slack = Http::new(Service::Slack, "https://hooks.slack.com/squirrel", false);
        let shown = format!("{slack:?}");
        assert!(
            !shown.contains("squirrel") && shown.contains("hooks.slack.com"),
            "{shown}"
        );
    }
}
