//! What the server is doing, as numbers: shared between the loop, the routes and `/metrics` (Prometheus' text form, vLLM's names).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Statistics;

/// What is counted and measured.
#[derive(Debug)]
pub struct ServerMetrics {
    running: AtomicUsize,
    waiting: AtomicUsize,
    active: AtomicUsize,
    /// Bits of an `f64`.
    cache_usage: AtomicU64,
    engine: Mutex<Statistics>,
    weights_version: AtomicU64,
    /// Why the weights are incomplete.
    incomplete_weights: Mutex<Option<String>>,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    /// Microseconds in which tools ran, while others decoded and while nothing did.
    tool_wait: [AtomicU64; 2],
    finished: Mutex<[u64; FINISHES.len()]>,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    inter_token_latency: Histogram,
    request_latency: Histogram,
}

/// Ways in which an answer ends.
const FINISHES: [&str; 4] = ["stop", "length", "tool_calls", "abort"];
/// Seconds, as vLLM's.
const FIRST_TOKEN_BOUNDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const TOKEN_BOUNDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0];
const REQUEST_BOUNDS: &[f64] =
    &[0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0];

/// Counts of seconds by upper bound.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// Counts, one for each bound and one for what is above, and the sum.
    values: Mutex<(Vec<u64>, f64)>,
}

/// A place in the queue, left when it is dropped.
#[derive(Debug)]
pub struct Waiting(Arc<ServerMetrics>);

/// A request that is being answered.
#[derive(Debug)]
pub struct Active(Arc<ServerMetrics>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for ServerMetrics {
    fn default() -> ServerMetrics {
        ServerMetrics {
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            cache_usage: AtomicU64::new(0),
            engine: Mutex::default(),
            weights_version: AtomicU64::new(0),
            incomplete_weights: Mutex::default(),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            tool_wait: Default::default(),
            finished: Mutex::new([0; FINISHES.len()]),
            time_to_first_token: Histogram::new(FIRST_TOKEN_BOUNDS),
            time_per_output_token: Histogram::new(TOKEN_BOUNDS),
            inter_token_latency: Histogram::new(TOKEN_BOUNDS),
            request_latency: Histogram::new(REQUEST_BOUNDS),
        }
    }
}

impl ServerMetrics {
    /// A request or a job comes to wait.
    pub fn wait(self: &Arc<ServerMetrics>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }

    /// A request begins to be answered.
    pub fn begin(self: &Arc<ServerMetrics>) -> Active {
        self.active.fetch_add(1, Ordering::SeqCst);
        Active(self.clone())
    }

    /// Requests that are being answered.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    /// Version of the weights.
    pub fn weights_version(&self) -> u64 {
        self.weights_version.load(Ordering::Relaxed)
    }

    /// Why the weights are of no use, where they are incomplete.
    pub fn incomplete_weights(&self) -> Option<String> {
        self.incomplete_weights.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The weights have changed.
    pub fn set_weights(&self, version: u64, incomplete: Option<String>) {
        *self.incomplete_weights.lock().unwrap_or_else(PoisonError::into_inner) = incomplete;
        self.weights_version.store(version, Ordering::Relaxed);
    }

    /// Open sequences that are not paused for others, the share of pages in use, and what the engine did so far.
    pub fn set_load(&self, running: usize, cache_usage: f64, engine: Statistics) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = engine;
        self.running.store(running, Ordering::Relaxed);
        self.cache_usage.store(cache_usage.to_bits(), Ordering::Relaxed);
    }

    /// A prompt was taken in.
    pub fn count_prompt(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// An answer's first token came this many seconds after its prompt was handed to the engine.
    pub fn count_first_token(&self, seconds: f64) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        self.time_to_first_token.add(seconds);
    }

    /// A further token came this many seconds after the one before.
    pub fn count_token(&self, seconds: f64) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        self.inter_token_latency.add(seconds);
    }

    /// Tools ran for this long, hidden by decoding or not.
    pub fn count_tool_wait(&self, time: Duration, is_hidden: bool) {
        self.tool_wait[usize::from(!is_hidden)].fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// An answer took this many tokens beyond those that were counted one by one.
    pub fn count_tokens(&self, tokens: usize) {
        self.generation_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// An answer ended: how, after how many seconds, and how many of them for each token after the first.
    pub fn count_finish(&self, reason: &str, seconds: f64, seconds_per_token: Option<f64>) {
        if let Some(place) = FINISHES.iter().position(|finish| *finish == reason) {
            self.finished.lock().unwrap_or_else(PoisonError::into_inner)[place] += 1;
        }
        self.request_latency.add(seconds);
        if let Some(seconds) = seconds_per_token {
            self.time_per_output_token.add(seconds);
        }
    }

    /// All of it in Prometheus' text form.
    pub fn text(&self, model: &str) -> String {
        let label = format!("model_name={model:?}");
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: &[(String, f64)]| {
            let _ = writeln!(text, "# HELP thyme_engine:{name} {help}\n# TYPE thyme_engine:{name} {kind}");
            for (suffix, value) in lines {
                let _ = writeln!(text, "thyme_engine:{name}{suffix} {value}");
            }
        };
        let one = |value: f64| vec![(format!("{{{label}}}"), value)];
        let load = |value: &AtomicUsize| value.load(Ordering::Relaxed) as f64;
        let total = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let usage = f64::from_bits(self.cache_usage.load(Ordering::Relaxed));
        family("num_requests_running", "gauge", "Open sequences that are not paused.", &one(load(&self.running)));
        family(
            "num_requests_waiting",
            "gauge",
            "Requests and paused sequences that wait for the engine.",
            &one(load(&self.waiting)),
        );
        family("kv_cache_usage_perc", "gauge", "Share of the pages in use; 1 is all of them.", &one(usage));
        family(
            "weights_version",
            "gauge",
            "Moves on with every change of the weights.",
            &one(total(&self.weights_version)),
        );
        let engine = *self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, count) in [
            ("num_preemptions_total", "Times that a sequence gave its pages up to another.", engine.preemptions),
            ("prefix_cache_queries_total", "Tokens of sequences that began, or began anew.", engine.queried_tokens),
            ("prefix_cache_hits_total", "Of these, tokens that were found computed.", engine.cached_tokens),
            ("spec_decode_num_drafts_total", "Drafts that were checked.", engine.drafts),
            ("spec_decode_num_draft_tokens_total", "Tokens that drafts had.", engine.drafted_tokens),
            ("spec_decode_num_accepted_tokens_total", "Of these, tokens that were sampled.", engine.accepted_tokens),
            ("encoded_images_total", "Images that went through the vision tower.", engine.encoded_images),
            ("image_cache_hits_total", "Images shown again that had been through it.", engine.cached_images),
        ] {
            family(name, "counter", help, &one(count as f64));
        }
        family("prompt_tokens_total", "counter", "Tokens of prompts.", &one(total(&self.prompt_tokens)));
        family("generation_tokens_total", "counter", "Tokens of answers.", &one(total(&self.generation_tokens)));
        let wait = |hidden: &str, value: &AtomicU64| (format!("{{{label},hidden={hidden:?}}}"), total(value) / 1e6);
        let [hidden, open] = &self.tool_wait;
        let lines = [wait("true", hidden), wait("false", open)];
        family("tool_wait_seconds_total", "counter", "Time in which tools ran, hidden by decoding or not.", &lines);
        let finished = *self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<(String, f64)> = FINISHES
            .iter()
            .zip(finished)
            .map(|(reason, count)| (format!("{{{label},finished_reason={reason:?}}}"), count as f64))
            .collect();
        family("request_success_total", "counter", "Answers by how they ended.", &lines);
        for (name, help, histogram) in [
            (
                "time_to_first_token_seconds",
                "From the hand-over of a request's prompts to its first token.",
                &self.time_to_first_token,
            ),
            (
                "time_per_output_token_seconds",
                "Of an answer, for each token behind the first.",
                &self.time_per_output_token,
            ),
            ("inter_token_latency_seconds", "From one token to the next.", &self.inter_token_latency),
            ("e2e_request_latency_seconds", "From a request to the end of an answer.", &self.request_latency),
        ] {
            family(name, "histogram", help, &histogram.lines(&label));
        }
        text
    }
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, values: Mutex::new((vec![0; bounds.len() + 1], 0.0)) }
    }

    fn add(&self, seconds: f64) {
        let place = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.0[place] += 1;
        values.1 += seconds;
    }

    fn lines(&self, label: &str) -> Vec<(String, f64)> {
        let (counts, sum) = self.values.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut below = 0;
        let mut lines = Vec::new();
        for (bound, count) in bounds.zip(counts) {
            below += count;
            lines.push((format!("_bucket{{{label},le=\"{bound}\"}}"), below as f64));
        }
        lines.push((format!("_sum{{{label}}}"), sum));
        lines.push((format!("_count{{{label}}}"), below as f64));
        lines
    }
}
