//! `veilwatch run`: Consume Kafka, detect, account, decide, notify.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

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
        let running = tokio::select! {
            started = pipeline::start(&config, health) => started?,
            () = stop_signal() => return Ok(ExitCode::SUCCESS),
        };
        tracing::info!(http = %running.http, "running");
        tokio::select! {
            () = stop_signal() => tracing::info!("stopping"),
            () = reload_on_signal(&running) => {}
            () = running.failed() => tracing::error!("the consumer ended, stopping"),
        }
        let limit = config.pipeline.shutdown + GRACE;
        let ended = tokio::time::timeout(limit, running.stop()).await;
        drop(guard);
        anyhow::Ok(match ended {
            Ok(Ended::Stopped) => ExitCode::SUCCESS,
            Ok(Ended::Failed(why)) => {
                eprintln!("veilwatch: {why}");
                ExitCode::from(EXIT_FAILED)
            }
            Err(_) => {
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

/// SIGHUP reads the rule files again. Never ends.
async fn reload_on_signal(running: &pipeline::Running) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return std::future::pending().await;
    };
    while hangup.recv().await.is_some() {
        running.reload();
    }
    std::future::pending::<()>().await;
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the default action ends the process, which is what the signals ask for.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
