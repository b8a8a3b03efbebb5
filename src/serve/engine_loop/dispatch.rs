//! Gives slots to those who wait, in fair order: opens their sequences, and where no slot is free pauses one of another request.

use super::command::Queued;
use super::fair::Spot;
use super::slots::Claim;
use super::waiter::{GROUP_MAX, Waiter};
use super::{EngineLoop, Listener};
use crate::engine::request::{GenerateRequest, GeneratorError};
use crate::engine::sequence::SequenceState;
use crate::rollout::engine_generator::EngineGenerator;
use crate::serve::agent::session::PreparedJob;

impl EngineLoop<'_> {
    /// Gives slots to those who wait, in fair order. If none is free, it pauses a sequence of the request that holds the most slots; for a small
    /// request also one of a large request.
    pub(super) fn fill_slots(&mut self) {
        self.step_aside();
        while !self.waiting.is_empty() {
            let free = self.engine.free_slots();
            let first = self.waiting.iter().next().map(|(spot, waiter)| (spot, waiter.slots()));
            let chosen = match first {
                Some((spot, slots)) if slots <= free => Some((spot, free)),
                _ => self.preempt_for_waiter(free),
            };
            let Some((spot, slots)) = chosen else { return };
            let Some(waiter) = self.waiting.take(spot) else { return };
            let rest = match waiter {
                Waiter::Job(job) => self.open(job, slots).map(Waiter::Job),
                Waiter::Agent(prepared) => self.open_chat(prepared).map(Waiter::Agent),
                Waiter::Paused { sequence, .. } => {
                    self.engine.resume(sequence);
                    self.slots.resume(sequence);
                    None
                }
            };
            if let Some(rest) = rest {
                self.wait(rest);
            }
        }
    }

    /// Pauses sequences whose tool is running, and queues them again when it returns.
    fn step_aside(&mut self) {
        let Some(agent) = &self.agent else { return };
        for sequence in agent.sequences() {
            if self.engine.state(sequence) == Some(SequenceState::Stopped) {
                self.engine.pause(sequence);
                self.aside.insert(sequence);
            }
        }
        let is_back = |sequence: &&u64| self.engine.state(**sequence) != Some(SequenceState::StoppedAside);
        for sequence in self.aside.iter().filter(is_back).copied().collect::<Vec<_>>() {
            self.aside.remove(&sequence);
            if self.engine.state(sequence).is_some()
                && let Some(claim) = self.slots.claim(sequence)
            {
                let waiting = self.metrics.wait();
                self.wait(Waiter::Paused { sequence, claim, _waiting: waiting });
            }
        }
    }

    /// Pauses victims for the first waiter that is entitled to slots; returns its queue position and slot count. Free slots stay reserved for
    /// the head of the queue. The number of paused sequences is limited, so that they find their pages again; a small request may exceed the
    /// limit, for it is soon done.
    fn preempt_for_waiter(&mut self, free: usize) -> Option<(Spot, usize)> {
        self.forget_closed();
        let may_rest = self.engine.paused().saturating_sub(self.aside.len()) < self.engine.slots();
        let usage = self.slots.usage(&self.engine);
        let waiters = self.waiting.iter().enumerate();
        let (number, spot, claim, slots) = waiters
            .map(|(number, (spot, waiter))| (number, spot, waiter.claim(), waiter.slots()))
            .find(|(_, _, claim, _)| (may_rest || claim.is_small) && usage.victim(*claim).is_some())?;
        let missing = slots - if number == 0 { free } else { 0 };
        for _ in 0..missing {
            let victim = self.slots.usage(&self.engine).victim(claim)?;
            let rests = self.slots.claim(victim)?;
            self.engine.pause(victim);
            let waiting = self.metrics.wait();
            self.wait(Waiter::Paused { sequence: victim, claim: rests, _waiting: waiting });
        }
        Some((spot, slots))
    }

    /// Opens a chat; it comes back if there is no room.
    fn open_chat(&mut self, prepared: Box<PreparedJob>) -> Option<Box<PreparedJob>> {
        let agent = self.agent.as_mut()?;
        let claim = prepared.claim();
        let first = self.sequences_opened;
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: &self.weights };
        match agent.open(&mut generator, prepared, first) {
            Ok(opened) => {
                self.sequences_opened += opened as u64;
                (first..self.sequences_opened).for_each(|sequence| self.slots.insert(sequence, claim));
                None
            }
            Err(prepared) => Some(prepared),
        }
    }

    /// Opens as many answers of a job as it may take slots, or a few while others wait; the rest comes back.
    fn open(&mut self, mut queued: Queued, slots: usize) -> Option<Queued> {
        let job = queued.job.clone();
        let first = self.sequences_opened;
        let most = if self.waiting.is_empty() { usize::MAX } else { GROUP_MAX };
        let n = queued.answers.len().min(most).min(slots);
        let request = GenerateRequest {
            token_ids: job.prompt.token_ids.clone(),
            images: job.prompt.images.clone(),
            history: Vec::new(),
            sequences: (first..first + n as u64).collect(),
            first_counter: Some(queued.answers.start as u64),
            top_logprobs: job.top_logprobs,
            top_logprobs_processed: job.top_logprobs_processed,
            seed: job.seed,
            sampling: job.sampling.clone(),
            adaptive: None,
            constraints: job.constraints.clone(),
            stops: job.stops.clone(),
        };
        match self.engine.open(&request) {
            Ok(()) => {
                self.sequences_opened += n as u64;
                let claim = Claim::new(job.client, job.prompt.token_ids.len(), job.n, job.stops.total_tokens);
                for (sequence, answer) in request.sequences.into_iter().zip(queued.answers.by_ref()) {
                    let listener = Listener { choice: job.first + answer, job: job.clone() };
                    self.listeners.insert(sequence, listener);
                    self.slots.insert(sequence, claim);
                }
                queued.place = None;
            }
            Err(GeneratorError::Full) => {}
            Err(error) => {
                let _ = job.events.send(Err(error.into()));
                return None;
            }
        }
        (!queued.answers.is_empty()).then_some(queued)
    }
}
