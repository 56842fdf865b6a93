//! JSON lines on standard output, written by a thread of its own.
//!
//! Whoever reads the pipe may stop reading. A write then blocks for good, and it must block nobody
//! else: the thread holds one line, a few wait, and the next ones fail at once and are tried again.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use super::{Reason, SendError};

/// Lines that wait for the writer. The worker has at most 64 under way; more would only grow old here.
const WAITING: usize = 16;

type Line = (String, oneshot::Sender<Result<(), std::io::ErrorKind>>);

/// A writer of lines.
#[derive(Debug, Clone)]
pub struct Lines {
    queue: SyncSender<Line>,
}

impl Lines {
    /// The process's standard output; there is one, whatever the number of sinks.
    pub fn stdout() -> Self {
        static STDOUT: OnceLock<Lines> = OnceLock::new();
        STDOUT.get_or_init(|| Self::to(std::io::stdout())).clone()
    }

    /// Starts a thread that writes to `out` and ends with the last handle.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel(WAITING);
        // Without the thread the queue's other end is gone, and each send says so.
        let _ = std::thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || write(out, &lines));
        Self { queue }
    }

    /// Writes a line; done when it is written out.
    pub(super) async fn send(&self, mut line: String) -> Result<(), SendError> {
        line.push('\n');
        let (done, written) = oneshot::channel();
        let failed = |what: &str| {
            Err(SendError::retry(
                Reason::Connection,
                format!("standard output: {what}"),
            ))
        };
        match self.queue.try_send((line, done)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return failed("nobody reads it"),
            Err(TrySendError::Disconnected(_)) => return failed("its writer is gone"),
        }
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(kind)) => failed(&kind.to_string()),
            Err(_) => failed("its writer is gone"),
        }
    }
}

fn write(mut out: impl Write, lines: &Receiver<Line>) {
    while let Ok((line, done)) = lines.recv() {
        let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        // The sender may have given up waiting.
        let _ = done.send(written.map_err(|e| e.kind()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Takes a line only when it is let.
    struct Stuck {
        go_on: mpsc::Receiver<()>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.go_on.recv();
            self.out.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_stops_blocks_nobody() {
        let (let_go, go_on) = mpsc::sync_channel(WAITING + 2);
        let out = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::to(Stuck {
            go_on,
            out: out.clone(),
        });
        // One thread for all: if a send blocked, nothing below would run.
        let mut sends = Vec::new();
        for n in 0..WAITING + 3 {
            let lines = lines.clone();
            sends.push(tokio::spawn(async move { lines.send(n.to_string()).await }));
        }
        let mut refused = 0;
        while refused == 0 {
            tokio::task::yield_now().await;
            refused = sends.iter().filter(|s| s.is_finished()).count();
        }
        // One may be in the writer's hand.
        assert!((1..=3).contains(&refused), "{refused}");
        for _ in 0..WAITING + 3 - refused {
            let_go.send(()).expect("the writer lives");
        }
        let mut written = 0;
        for send in sends {
            match send.await.expect("no panic") {
                Ok(()) => written += 1,
                Err(e) => assert!(e.to_string().contains("nobody reads"), "{e}"),
            }
        }
        assert_eq!(written, WAITING + 3 - refused);
        let text = String::from_utf8(out.lock().expect("lock").clone()).expect("text");
        assert_eq!(text.lines().count(), written);
    }
}
