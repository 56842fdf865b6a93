//! A running ceiling, as the bench sees it.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;

/// The process and both ends of the talk with it. It ends with its standard input.
pub(in crate::bench) struct Ceiling {
    child: Child,
    ask: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        drop(self.ask.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ceiling {
    /// Starts it and waits until it stands at the topic's end.
    pub(in crate::bench) fn start(
        exe: &Path,
        brokers: &str,
        topic: &str,
        parse: bool,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(exe)
            .args(["bench", "--brokers", brokers, "--topic", topic])
            .args(["--ceiling", if parse { "parse" } else { "consume" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the ceiling")?;
        let ask = child.stdin.take();
        let out = child.stdout.take().context("no output of the ceiling")?;
        let mut ceiling = Self {
            child,
            ask,
            answers: BufReader::new(out).lines(),
        };
        ceiling.answer()?;
        Ok(ceiling)
    }

    /// Has it consume the next `count` records, which are there. Seconds and CPU seconds.
    pub(in crate::bench) fn pass(&mut self, count: u64) -> anyhow::Result<(f64, f64)> {
        let ask = self.ask.as_mut().context("the ceiling has ended")?;
        writeln!(ask, "{count}").context("the ceiling has ended")?;
        let answer = self.answer()?;
        let mut numbers = answer.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(seconds)), Some(Ok(cpu))) => Ok((seconds, cpu)),
            _ => anyhow::bail!("the ceiling says \"{answer}\""),
        }
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let line = self.answers.next().context("the ceiling has ended")?;
        line.context("no answer of the ceiling")
    }
}
