//! `veilwatch run`: Consume Kafka, detect, account, decide, notify.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::service::{Run, Service};
use crate::config::Config;
use crate::ingest::Ended;
use crate::pipeline::{self, Running};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; `veilwatch config init` prints one.
    #[arg(short, long, value_name = "F")]
    config: PathBuf,
    /// Stop when standard input ends, so that a parent's death ends it too.
    #[arg(long, hide = true)]
    until_eof: bool,
}

/// Beyond the shutdown deadline.
const GRACE: Duration = Duration::from_millis(500);

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::arenas::few();
    let config = Config::load(&args.config)?;
    let run = Run {
        threads: threads(),
        telemetry: &config.telemetry,
        limit: config.pipeline.shutdown + GRACE,
        until_eof: args.until_eof,
    };
    run.serve(async |health| {
        let running = pipeline::start(&config, health).await?;
        tracing::info!(http = %running.http, "running");
        anyhow::Ok(running)
    })
}

/// Threads of the runtime: one for two cores, since each wakes the others for every answer of Postgres, which
/// costs more than they gain; at most four. What takes long has threads of its own.
fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.div_ceil(2).min(4)
}

impl Service for Running {
    async fn failed(&self) -> String {
        self.failed().await
    }
    fn reload(&self) {
        self.reload();
    }
    async fn stop(self) -> Ended {
        self.stop().await
    }
}
