//! Verbs that serve until they are told to stop: signals, the drain, the exit code.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ingest::Ended;
use crate::telemetry::{self, Health, TelemetryConfig};

/// Exit code of a process that ran and could not go on.
const EXIT_FAILED: u8 = 1;

/// Something that serves.
pub(super) trait Service {
    /// Waits until it ends by itself, which it does only when it cannot go on, and says why.
    async fn failed(&self) -> String;
    /// Reads again what may change.
    fn reload(&self) {}
    /// Drains and stops.
    async fn stop(self) -> Ended;
}

/// How a service is run.
pub(super) struct Run<'a> {
    /// Threads of the runtime.
    pub(super) threads: usize,
    pub(super) telemetry: &'a TelemetryConfig,
    /// How long stopping may take. Then the process ends, whatever hangs: its state is safe.
    pub(super) limit: Duration,
    /// Also stop at the end of standard input.
    pub(super) until_eof: bool,
}

impl Run<'_> {
    /// Starts a service and serves until a signal or its own end.
    pub(super) fn serve<S: Service, E: Into<anyhow::Error>>(
        self,
        start: impl AsyncFnOnce(Health) -> Result<S, E>,
    ) -> anyhow::Result<ExitCode> {
        // The clients' TLS; a second install (tests) keeps the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .enable_all()
            .build()
            .context("cannot start the async runtime")?;
        let code = runtime.block_on(async {
            let guard = telemetry::start(self.telemetry)?;
            let mut signals = Signals::listen();
            if self.until_eof {
                signals = signals.or_end_of_input();
            }
            let running = tokio::select! {
                started = start(Health::default()) => started.map_err(Into::into)?,
                // Nothing runs yet.
                () = signals.stop(|| {}) => return Ok(ExitCode::SUCCESS),
            };
            let failed = tokio::select! {
                () = signals.stop(|| running.reload()) => {
                    tracing::info!("stopping");
                    None
                }
                why = running.failed() => {
                    tracing::error!(why, "stopping");
                    Some(why)
                }
            };
            let ended = tokio::time::timeout(self.limit, running.stop()).await;
            drop(guard);
            anyhow::Ok(match (ended, failed) {
                (Ok(Ended::Stopped), None) => ExitCode::SUCCESS,
                (Ok(Ended::Failed(why)), _) | (_, Some(why)) => {
                    eprintln!("veilwatch: {why}");
                    ExitCode::from(EXIT_FAILED)
                }
                (Err(_), None) => {
                    tracing::warn!(
                        "not everything stopped in time; what was not committed is read again"
                    );
                    ExitCode::SUCCESS
                }
            })
        })?;
        // Threads of the Kafka clients may still be closing; they hold nothing that matters.
        runtime.shutdown_background();
        Ok(code)
    }
}

/// Signals, listened to from the moment this is made: one that comes between two waits is kept for
/// the second, while a listener made anew would never hear of it.
pub(super) struct Signals {
    stop: Option<(Signal, Signal)>,
    hangup: Option<Signal>,
    /// Hears of the end of standard input.
    parent: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl Signals {
    /// Begins to listen.
    pub(super) fn listen() -> Self {
        // Without handlers the default action ends the process, which is what the signals ask for.
        let stop = signal(SignalKind::terminate()).and_then(|term| {
            let int = signal(SignalKind::interrupt())?;
            Ok((term, int))
        });
        Self {
            stop: stop.ok(),
            hangup: signal(SignalKind::hangup()).ok(),
            parent: None,
        }
    }

    /// Takes the end of standard input for a signal as well: whoever holds its other end has ended,
    /// however that came.
    pub(super) fn or_end_of_input(mut self) -> Self {
        let (tell, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut sink = [0u8; 256];
            let mut stdin = std::io::stdin().lock();
            while !matches!(stdin.read(&mut sink), Ok(0) | Err(_)) {}
            let _ = tell.send(());
        });
        self.parent = Some(heard);
        self
    }

    /// Waits for SIGTERM, SIGINT or the end of input; on each SIGHUP calls `reload`.
    pub(super) async fn stop(&mut self, reload: impl Fn()) {
        let Self {
            stop,
            hangup,
            parent,
        } = self;
        let asked = async {
            match stop {
                Some((term, int)) => {
                    tokio::select! {
                        _ = term.recv() => {}
                        _ = int.recv() => {}
                    }
                }
                None => std::future::pending().await,
            }
        };
        let reloads = async {
            while let Some(hangup) = hangup.as_mut() {
                if hangup.recv().await.is_none() {
                    break;
                }
                reload();
            }
            std::future::pending::<()>().await;
        };
        let orphaned = async {
            match parent {
                Some(end) => drop(end.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = asked => {}
            () = reloads => {}
            () = orphaned => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn a_signal_between_two_waits_is_kept() {
        let mut signals = Signals::listen();
        tokio::select! {
            biased;
            () = signals.stop(|| {}) => panic!("nobody asked"),
            () = std::future::ready(()) => {}
        }
        kill_process(getpid(), Signal::TERM).expect("signalled");
        let asked = signals.stop(|| {});
        let asked = tokio::time::timeout(Duration::from_secs(10), asked).await;
        assert!(asked.is_ok(), "the signal was lost");
    }
}
