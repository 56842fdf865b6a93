//! `veilwatch run`: Consume Kafka, detect, account, decide, notify.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::ingest::Ended;
use crate::pipeline;
use crate::telemetry::{self, Health};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; `veilwatch config init` prints one.
    #[arg(short, long, value_name = "F")]
    config: PathBuf,
}

/// Exit code of a process that ran and could not go on.
const EXIT_FAILED: u8 = 1;
/// After the shutdown deadline the process ends, whatever hangs: its state is safe in Postgres.
const GRACE: Duration = Duration::from_millis(500);

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    silence_panics();
    // The clients' TLS; a second install (tests) keeps the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 4)))
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let code = runtime.block_on(async {
        let guard = telemetry::start(&config.telemetry)?;
        let health = Health::default();
        let mut signals = Signals::listen();
        let running = tokio::select! {
            started = pipeline::start(&config, health) => started?,
            // Rules are being read: asking for it changes nothing.
            () = signals.stop(|| {}) => return Ok(ExitCode::SUCCESS),
        };
        tracing::info!(http = %running.http, "running");
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
        let limit = config.pipeline.shutdown + GRACE;
        let ended = tokio::time::timeout(limit, running.stop()).await;
        drop(guard);
        anyhow::Ok(match (ended, failed) {
            (Ok(Ended::Failed(why)), _) | (_, Some(why)) => {
                eprintln!("veilwatch: {why}");
                ExitCode::from(EXIT_FAILED)
            }
            (Ok(Ended::Stopped), None) => ExitCode::SUCCESS,
            (Err(_), None) => {
                tracing::warn!(
                    "not everything stopped in time; what was not committed is read again"
                );
                ExitCode::SUCCESS
            }
        })
    })?;
    // Threads of the Kafka client may still be closing; they hold nothing that matters.
    runtime.shutdown_background();
    Ok(code)
}

/// A panic's message may quote what it was about; only its place is told.
pub(super) fn silence_panics() {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(at, thread = thread.name().unwrap_or("unnamed"), "panic");
    }));
}

/// Signals, listened to from the moment this is made: one that comes between two waits is kept for
/// the second, while a listener made anew would never hear of it.
pub(super) struct Signals {
    stop: Option<(Signal, Signal)>,
    hangup: Option<Signal>,
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
        }
    }

    /// Waits for SIGTERM or SIGINT; on each SIGHUP calls `reload`.
    pub(super) async fn stop(&mut self, reload: impl Fn()) {
        let Self { stop, hangup } = self;
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
        tokio::select! {
            () = asked => {}
            () = reloads => {}
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
