//! A judge in this process: a checkpoint of its own beside the policy, on an engine of its own, which a thread drives. It answers greedily, in the chat
//! template of its own checkpoint. Its weights never change, so its pages and its replies stay true for the whole run.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::debug_span;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::engine::Engine;
use crate::engine::request::{GenerateRequest, GeneratorError, Sampling, Stops, TokenEvent};
use crate::engine::sizing::{EngineLimits, EngineSize, PageDemand};
use crate::model::parameters::Weights;
use crate::ops::Backend;
use crate::prompt::{Message, Processor, RenderOptions};
use crate::rollout::judge::{Judge, JudgeCounts, JudgeError, Question};
use crate::rollout::judges::counter::{Counter, Outcome};
use crate::rollout::judges::reply_cache::{ReplyCache, content_of};
use crate::rollout::judges::settings::{CacheUse, JudgeSettings};

/// The judge, which may be asked by many threads. Its engine ends when this is dropped.
pub struct LocalJudge {
    questions: Mutex<Sender<Asked>>,
    processor: Arc<Processor>,
    settings: JudgeSettings,
    cache: ReplyCache,
    counter: Counter,
}

/// A question for the engine, and where the reply goes.
struct Asked {
    token_ids: Vec<u32>,
    reply: Sender<Result<Vec<u32>, String>>,
}

/// A question that is being answered.
struct Open {
    token_ids: Vec<u32>,
    reply: Sender<Result<Vec<u32>, String>>,
}

/// Sizes of the judge's engine: as many sequences as questions may be under way, and pages for all of them.
pub fn judge_limits(settings: &JudgeSettings) -> EngineLimits {
    let (sequences, tokens) = (settings.parallel_requests, settings.max_tokens as usize);
    EngineSize::new(sequences, PageDemand::of_groups(sequences, 1, sequences, tokens)).limits()
}

impl LocalJudge {
    /// Loads the checkpoint's weights, and starts the thread.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn start(
        checkpoint: &Checkpoint,
        processor: Arc<Processor>,
        backend: Arc<dyn Backend>,
        settings: &JudgeSettings,
    ) -> Result<LocalJudge, CheckpointError> {
        let model = checkpoint.model(backend);
        let weights = checkpoint.weights(&model)?;
        let engine = Engine::new(model, processor.clone(), judge_limits(settings));
        let (questions, asked) = channel();
        let turns = Turns {
            end_of_turn: processor.special_ids().im_end,
            tokens_max: settings.max_tokens as usize,
            engine,
            weights,
            open: BTreeMap::new(),
            opened: 0,
        };
        thread::spawn(move || turns.serve(&asked));
        let (cache, counter) = (ReplyCache::default(), Counter::default());
        Ok(LocalJudge { questions: Mutex::new(questions), processor, settings: settings.clone(), cache, counter })
    }

    fn ask_engine(&self, question: &Question<'_>) -> Result<String, JudgeError> {
        let name = self.settings.model_path.as_deref().unwrap_or_default();
        let failed = |reason: String| JudgeError(format!("{name}: {reason}"));
        let message = |(role, text): &(&'static str, String)| Message::text(role, text.as_str());
        let messages: Vec<Message> = question.messages.iter().map(message).collect();
        let variables = self.settings.chat_template_kwargs.clone();
        let options = RenderOptions { add_generation_prompt: true, variables, ..RenderOptions::default() };
        let processor = &self.processor;
        let prompt = processor.encode_rendered(&messages, Path::new(""), &options, processor.image_settings());
        let prompt = prompt.map_err(|error| failed(error.to_string()))?;
        let (reply, replied) = channel();
        let sent = {
            let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
            questions.send(Asked { token_ids: prompt.token_ids, reply })
        };
        sent.map_err(|_| failed("its engine has ended".to_owned()))?;
        let seconds = Duration::from_secs_f64(self.settings.timeout_seconds);
        let replied = replied.recv_timeout(seconds).map_err(|error| failed(format!("no reply: {error}")))?;
        let text = self.processor.tokenizer().decode(&replied.map_err(failed)?, true);
        (question.form)(&text).map_err(failed)?;
        Ok(text)
    }
}

impl Judge for LocalJudge {
    fn parallel_requests(&self) -> usize {
        self.settings.parallel_requests
    }

    fn answer(&self, question: &Question<'_>) -> Result<String, JudgeError> {
        let message = |(role, text): &(&str, String)| json!({"role": role, "content": text});
        let messages: Value = question.messages.iter().map(message).collect();
        let mut seconds = None;
        let mut ask = || {
            let _span = debug_span!("judge").entered();
            let began = Instant::now();
            let reply = self.ask_engine(question);
            seconds = Some(began.elapsed().as_secs_f64());
            reply
        };
        let reply = match self.settings.cache {
            CacheUse::Never => ask(),
            CacheUse::Greedy | CacheUse::Always => self.cache.get_or_ask(content_of(&messages), ask),
        };
        let outcome = Outcome { reply, retries: 0, seconds };
        self.counter.note(&outcome);
        outcome.reply
    }

    fn take_counts(&self) -> JudgeCounts {
        self.counter.take()
    }
}

/// The engine with its weights, and the questions that it answers.
struct Turns {
    engine: Engine,
    weights: Weights,
    end_of_turn: u32,
    tokens_max: usize,
    open: BTreeMap<u64, Open>,
    /// Questions opened so far; the number of the next.
    opened: u64,
}

impl Turns {
    /// Answers questions until nobody can ask any more, or the engine fails.
    fn serve(mut self, asked: &Receiver<Asked>) {
        let mut waiting = VecDeque::new();
        loop {
            if self.open.is_empty() && waiting.is_empty() {
                let Ok(first) = asked.recv() else { return };
                waiting.push_back(first);
            }
            waiting.extend(asked.try_iter());
            self.open_what_fits(&mut waiting);
            match self.engine.step(&self.weights) {
                Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                Err(error) => {
                    // Whoever is told may have given up waiting.
                    self.open.into_values().for_each(|open| drop(open.reply.send(Err(error.to_string()))));
                    return;
                }
            }
        }
    }

    fn open_what_fits(&mut self, waiting: &mut VecDeque<Asked>) {
        while let Some(Asked { token_ids, reply }) = waiting.pop_front() {
            let request = GenerateRequest {
                token_ids,
                sequences: vec![self.opened],
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                stops: Stops {
                    token_ids: vec![self.end_of_turn],
                    turn_tokens: self.tokens_max,
                    total_tokens: self.tokens_max,
                    ..Stops::default()
                },
                ..GenerateRequest::default()
            };
            match self.engine.open(&request) {
                Ok(()) => {
                    self.open.insert(self.opened, Open { token_ids: Vec::new(), reply });
                    self.opened += 1;
                }
                Err(GeneratorError::Full) if !self.open.is_empty() => {
                    waiting.push_front(Asked { token_ids: request.token_ids, reply });
                    return;
                }
                Err(error) => drop(reply.send(Err(error.to_string()))),
            }
        }
    }

    fn take(&mut self, event: TokenEvent) {
        let Some(open) = self.open.get_mut(&event.sequence) else { return };
        open.token_ids.extend(event.token.map(|token| token.id));
        if event.stopped.is_none() {
            return;
        }
        self.engine.close(event.sequence);
        if let Some(Open { token_ids, reply }) = self.open.remove(&event.sequence) {
            drop(reply.send(Ok(token_ids)));
        }
    }
}
