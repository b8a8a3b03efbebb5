//! Replies that come in any order, written in theirs.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::telemetry::Progress;

/// Replies on their way to the output: each is written as soon as those before it are.
pub struct OrderedWriter<R> {
    progress: Progress,
    began: Instant,
    waiting: BTreeMap<usize, anyhow::Result<R>>,
    next: usize,
    tokens: usize,
}

impl<R> OrderedWriter<R> {
    /// For so many replies, some of which are there; none if all are.
    pub fn start(unit: &str, total: usize, done: usize) -> Option<OrderedWriter<R>> {
        if done > 0 {
            eprintln!("{done} of {total} {unit} are there already");
        }
        if done == total {
            return None;
        }
        let progress = Progress::new("batch", unit, total as u64);
        progress.start_at(done as u64);
        Some(OrderedWriter { progress, began: Instant::now(), waiting: BTreeMap::new(), next: done, tokens: 0 })
    }

    /// Takes the reply of that number, for which so many tokens were sampled, or what is wrong in its place. `write` gets the replies that are next, by
    /// number.
    ///
    /// # Errors
    /// When the output cannot be written; or what is wrong, when all before it is written.
    pub fn add(
        &mut self,
        number: usize,
        reply: anyhow::Result<R>,
        tokens: usize,
        write: &mut dyn FnMut(usize, R) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.waiting.insert(number, reply);
        self.tokens += tokens;
        while let Some(reply) = self.waiting.remove(&self.next) {
            write(self.next, reply?)?;
            self.next += 1;
        }
        self.progress.set_message(&self.rate());
        self.progress.advance(1);
        Ok(())
    }

    /// Says what it was in all.
    pub fn finish(self) {
        let rate = self.rate();
        self.progress.finish();
        eprintln!("{} tokens sampled, {rate}", self.tokens);
    }

    fn rate(&self) -> String {
        format!("{:.1} tokens/s", self.tokens as f64 / self.began.elapsed().as_secs_f64().max(1e-9))
    }
}
