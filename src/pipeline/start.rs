//! Starts the whole and stops it again.
//!
//! Order of the start: what an operator can get wrong first (configuration, database, topics), each
//! with a clear error; then the parts, last the consumer. Order of the stop: the consumer hands over
//! what it has, workers commit it, the leases are given up; all within a deadline, after which the
//! process may end at any point: nothing is lost, work is only done again.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::build::{self, BuildError, Parts};
use super::checkpoint::Schedule;
use super::claims::PostgresClaims;
use super::{Worker, commit, live};
use crate::config::Config;
use crate::ingest::{self, Ended, Feedback, Inbox};
use crate::store::{Store, StoreError};
use crate::telemetry::{Health, metrics};

/// Of the shutdown deadline, kept for leaving the group and closing connections.
const CLOSING: Duration = Duration::from_secs(4);
/// Pause between two looks whether every part still runs.
const WATCH: Duration = Duration::from_millis(100);
/// Pause between two looks at partitions that an operator may have freed.
const LOOK: Duration = Duration::from_secs(2);

/// Messages to the poll thread that may wait; it reads them every half second at the latest, and a
/// group of batches makes one for each of its partitions. The channel's memory is taken at once: 80 B a
/// message.
const FEEDBACK: usize = 8_192;

/// Why the pipeline does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Rules, keys, prices, sinks.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka's topics.
    #[error(transparent)]
    Topics(#[from] ingest::TopicError),
    /// Kafka's client.
    #[error("{0}")]
    Ingest(String),
    /// No address, thread or task.
    #[error("cannot listen on http.listen {0}: {1}; choose another port")]
    Http(std::net::SocketAddr, std::io::Error),
}

/// The running pipeline.
pub struct Running {
    consumer: ingest::Handle,
    workers: Vec<std::thread::JoinHandle<()>>,
    background: tokio::sync::Mutex<tokio::task::JoinSet<()>>,
    stop: tokio::sync::watch::Sender<bool>,
    store: Store,
    deadline: Duration,
    reload: Arc<tokio::sync::Notify>,
    /// Where `/livez /readyz /metrics` are.
    pub http: std::net::SocketAddr,
}

/// Starts everything that `run` does.
///
/// # Errors
/// Whatever is missing or wrong, with what to do about it.
pub async fn start(config: &Config, health: Health) -> Result<Running, StartError> {
    // Rules, Postgres and Kafka at once: each waits for something else. What is wrong is told in that
    // order whichever knows it first.
    let topics = topics(config);
    let (parts, store) = tokio::join!(parts(config), build::connect(config));
    let (parts, store) = (parts?, store?);
    parts.take_limits(&store).await?;
    parts.watch_for(&store).await?;
    log_key_use(config, &parts, &store).await?;
    let parts = Arc::new(parts);
    health.set("postgres", true, "connected");
    metrics().postgres_up.set(&[], 1.0);
    let topics = topics
        .await
        .map_err(|e| StartError::Ingest(e.to_string()))??;
    for (topic, partitions) in &topics {
        tracing::info!(topic, partitions, "consuming");
        store.partitions_are(topic, *partitions);
    }
    health.set("kafka", false, "joining the group");
    // A claim may hold the poll thread for half of this.
    health.expect_beat_within("kafka", config.ingest.max_poll_interval);

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut background = tokio::task::JoinSet::new();
    let (feedback, hear) = mpsc::sync_channel(FEEDBACK);
    let (inboxes, workers) = workers(config, &parts, &store, &health, &feedback, &mut background);
    background.spawn(look_at_halted(store.clone(), feedback, stopped.clone()));
    background.spawn(parts.clone().follow_watched(store.clone(), stopped.clone()));
    background.spawn(parts.clone().follow_budgets(store.clone(), stopped.clone()));
    parts.spawn_background(&store, &health, &stopped, &mut background);
    let reload = Arc::new(tokio::sync::Notify::new());
    background.spawn(live::follow(
        parts.live.clone(),
        config.rules.clone(),
        reload.clone(),
        health.clone(),
        stopped.clone(),
    ));

    let http = crate::telemetry::http::serve_until(config.http, health.clone(), stopped.clone())
        .await
        .map_err(|e| StartError::Http(config.http, e))?;

    let claims = PostgresClaims {
        store: store.clone(),
        runtime: tokio::runtime::Handle::current(),
        live: parts.live.clone(),
        accept_truncation: config.ingest.accept_truncation,
    };
    let consumer = ingest::spawn(
        config.ingest.clone(),
        Arc::new(claims),
        inboxes,
        hear,
        health,
        config.pipeline.shutdown.saturating_sub(CLOSING),
    )
    .map_err(StartError::Ingest)?;
    Ok(Running {
        consumer,
        workers,
        background: tokio::sync::Mutex::new(background),
        stop,
        store,
        deadline: config.pipeline.shutdown,
        reload,
        http,
    })
}

/// Each use of a seal key is told, before the first record: which keys, for which topics.
async fn log_key_use(config: &Config, parts: &Parts, store: &Store) -> Result<(), StartError> {
    let settings = parts.live.load();
    let Some(sealer) = &settings.sealer else {
        return Ok(());
    };
    let kids: Vec<String> = sealer
        .keys()
        .all()
        .iter()
        .map(|k| k.kid().to_string())
        .collect();
    let trusted = config
        .ingest
        .topics
        .iter()
        .filter(|t| t.mode == ingest::TopicMode::Trusted);
    let topics: Vec<String> = trusted.map(|t| t.name.clone()).collect();
    tracing::info!(?kids, ?topics, "holding a seal key");
    store.key_used(&kids, &topics).await?;
    Ok(())
}

/// Builds the parts beside the runtime: rules take a while to read.
async fn parts(config: &Config) -> Result<Parts, StartError> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || Parts::build(&config))
        .await
        .map_err(|e| StartError::Ingest(format!("cannot read the rules: {e}")))?
        .map_err(StartError::Build)
}

/// Asks Kafka for the topics, on a thread of its own: the runtime would wait for it at its end, also
/// where something else is wrong and brokers that do not answer are given up only after a while.
fn topics(config: &Config) -> tokio::sync::oneshot::Receiver<TopicsAnswer> {
    let (tell, answer) = tokio::sync::oneshot::channel();
    let wanted = config.ingest.clone();
    std::thread::spawn(move || {
        let _ = tell.send(ingest::check_topics(&wanted));
    });
    answer
}

type TopicsAnswer = Result<Vec<(String, usize)>, ingest::TopicError>;

type Inboxes = Vec<Inbox<super::claims::Claimed>>;

fn workers(
    config: &Config,
    parts: &Arc<Parts>,
    store: &Store,
    health: &Health,
    feedback: &mpsc::SyncSender<Feedback>,
    background: &mut tokio::task::JoinSet<()>,
) -> (Inboxes, Vec<std::thread::JoinHandle<()>>) {
    let mut inboxes = Vec::new();
    let mut threads = Vec::new();
    let runtime = tokio::runtime::Handle::current();
    for n in 0..config.pipeline.workers {
        let inbox = Inbox::default();
        let (commits, groups) = tokio::sync::mpsc::channel(1);
        let (tell, done) = mpsc::sync_channel(2 * super::AHEAD + 2);
        // A zombie learns of its loss within a session timeout; taking the partition back before
        // would only fence its new owner.
        let foreign_wait = config.ingest.session_timeout;
        background.spawn(commit::run(
            store.clone(),
            groups,
            tell,
            health.clone(),
            foreign_wait,
        ));
        let worker = Worker {
            inbox: inbox.clone(),
            parts: parts.clone(),
            settings: parts.live.load(),
            store: store.clone(),
            runtime: runtime.clone(),
            partitions: Default::default(),
            backlog: Default::default(),
            leaving: Vec::new(),
            commits,
            done,
            in_flight: Default::default(),
            feedback: feedback.clone(),
            schedule: Schedule::new(
                config.pipeline.checkpoint_records,
                config.pipeline.checkpoint_every,
            ),
            poisoned: Default::default(),
            panics: Vec::new(),
            tools: Default::default(),
            generation: 0,
            broken: false,
            foreign_wait,
        };
        let spawned = std::thread::Builder::new()
            .name(format!("worker-{n}"))
            .spawn(move || worker.run());
        match spawned {
            Ok(t) => {
                threads.push(t);
                inboxes.push(inbox);
            }
            Err(error) => tracing::error!(%error, n, "cannot start a worker"),
        }
    }
    (inboxes, threads)
}

/// Tells the consumer when an operator has freed a halted partition.
async fn look_at_halted(
    store: Store,
    feedback: mpsc::SyncSender<Feedback>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            _ = stopped.wait_for(|s| *s) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(rows) = store.partitions().await else {
            continue;
        };
        // Whoever owns a halted partition shows it, also one that was started after it halted.
        let owner = &store.config().owner;
        for r in &rows {
            let halted = r.halted.as_deref().filter(|_| r.owner == *owner);
            super::report::show_halted(&r.tp, halted);
        }
        // Every free one, not only those seen halted before: an operator may skip between two looks.
        // The consumer passes over those that it does not hold halted. Not waiting for room on a thread of
        // the runtime, which claims need: it is said again at the next look.
        for r in rows.into_iter().filter(|r| r.halted.is_none()) {
            let _ = feedback.try_send(Feedback::Resume { tp: r.tp });
        }
    }
}

/// Waits for the first part that ends.
async fn first_ended(
    consumer: impl Fn() -> bool,
    workers: &[std::thread::JoinHandle<()>],
    background: &mut tokio::task::JoinSet<()>,
) -> String {
    loop {
        if consumer() {
            return "the consumer ended".to_owned();
        }
        if let Some(worker) = workers.iter().find(|w| w.is_finished()) {
            return format!("{} ended", worker.thread().name().unwrap_or("a worker"));
        }
        tokio::select! {
            ended = background.join_next(), if !background.is_empty() => {
                let panicked = ended.is_some_and(|e| e.is_err());
                let how = if panicked { "panicked" } else { "ended" };
                return format!("a background task {how}");
            }
            () = tokio::time::sleep(WATCH) => {}
        }
    }
}

impl Running {
    /// Waits until a part ends by itself, which it does only when it cannot go on, and says which. A
    /// process with a part missing would look alive and do nothing: it must end, and be started anew.
    pub async fn failed(&self) -> String {
        let mut background = self.background.lock().await;
        let consumer = || self.consumer.is_finished();
        first_ended(consumer, &self.workers, &mut background).await
    }

    /// Reads the rule files again, now.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// The store, for those who look beside (tests, bench).
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Drains and stops, within the configured deadline.
    pub async fn stop(self) -> Ended {
        let deadline = Instant::now() + self.deadline;
        let Self {
            consumer,
            workers,
            background,
            stop,
            store,
            ..
        } = self;
        let mut background = background.into_inner();
        consumer.stop();
        let ended = tokio::task::spawn_blocking(move || {
            let ended = consumer.join();
            for w in workers {
                while !w.is_finished() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            ended
        });
        let ended = match ended.await {
            Ok(e) => e,
            Err(e) => Ended::Failed(e.to_string()),
        };
        let _ = stop.send(true);
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(500));
        let all = async { while background.join_next().await.is_some() {} };
        if tokio::time::timeout(left, all).await.is_err() {
            tracing::warn!("background tasks did not end in time");
        }
        let _ = tokio::time::timeout(Duration::from_millis(500), store.close()).await;
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(stop: mpsc::Receiver<()>) -> std::thread::JoinHandle<()> {
        let thread = std::thread::Builder::new().name("worker-0".into());
        thread
            .spawn(move || {
                let _ = stop.recv();
            })
            .expect("a thread")
    }

    #[tokio::test]
    async fn any_part_that_ends_ends_the_whole() {
        let (stop, stopped) = mpsc::channel();
        let workers = [sleeper(stopped)];
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(std::future::pending());
        let wait = Duration::from_millis(250);
        let all_run = first_ended(|| false, &workers, &mut tasks);
        assert!(tokio::time::timeout(wait, all_run).await.is_err());
        assert_eq!(
            first_ended(|| true, &workers, &mut tasks).await,
            "the consumer ended"
        );
        tasks.spawn(async { panic!("as asked") });
        let why = first_ended(|| false, &workers, &mut tasks).await;
        assert_eq!(why, "a background task panicked");
        drop(stop);
        assert_eq!(
            first_ended(|| false, &workers, &mut tasks).await,
            "worker-0 ended"
        );
    }
}
