//! The engine's schedule without its model: what is decided while a step computes is what would be decided when it has.

use std::sync::Arc;

use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, GeneratorError, Sampled, Stops, TokenEvent};
use thyme_engine::engine::scheduler::Chunk;
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::parameters::WeightsId;

use crate::support::small_policy::{Random, SmallPolicy};

/// Ends a turn.
const STOP: u32 = 3;

/// An engine whose tokens are made up, which decides ahead or does not.
struct Scripted {
    engine: Engine,
    looks_ahead: bool,
    /// Sequences that are open, and those of them that have stopped.
    open: Vec<u64>,
    stopped: Vec<u64>,
}

impl Scripted {
    fn new(policy: &SmallPolicy, limits: EngineLimits, looks_ahead: bool) -> Scripted {
        Scripted { engine: policy.engine(limits), looks_ahead, open: Vec::new(), stopped: Vec::new() }
    }

    fn open(&mut self, token_ids: Vec<u32>, sequences: Vec<u64>) {
        let stops = Stops { token_ids: vec![STOP], turn_tokens: 60, total_tokens: 150, ..Stops::default() };
        let request = GenerateRequest { token_ids, sequences: sequences.clone(), stops, ..GenerateRequest::default() };
        self.engine.open(&request).unwrap();
        self.open.extend(sequences);
    }

    fn close(&mut self, number: u64) {
        self.engine.close(number);
        self.open.retain(|other| *other != number);
        self.stopped.retain(|other| *other != number);
    }

    /// A step; what it computed.
    fn step(&mut self) -> Vec<Chunk> {
        let pass = self.engine.plan(WeightsId::default());
        if self.looks_ahead {
            self.engine.look_ahead(&pass.chunks);
        }
        let sampling = pass.chunks.iter().filter(|chunk| chunk.samples_next);
        let sampled = sampling.map(|chunk| made_up(chunk.sequence, chunk.tokens.end)).collect();
        for event in self.engine.accept(&pass.chunks, sampled) {
            self.stopped.extend(event.stopped.map(|_| event.sequence));
        }
        let mut chunks = pass.chunks;
        chunks.sort_by_key(|chunk| chunk.sequence);
        chunks
    }

    /// Goes on with a sequence that has stopped, or ends it where there is no room.
    fn observe(&mut self, number: u64, ids: &[u32]) {
        match self.engine.append(number, ids, &[]) {
            Ok(()) => self.stopped.retain(|other| *other != number),
            Err(GeneratorError::TooLong { .. }) => self.close(number),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The token of a sequence at a place: the same whenever it is sampled.
fn made_up(sequence: u64, position: usize) -> TokenEvent {
    let mut random = Random::new(sequence << 32 | position as u64);
    let id = if random.one_in(12) { STOP } else { 5 + random.below(20) as u32 };
    TokenEvent { sequence, token: Some(Sampled { id, ..Sampled::default() }), ..TokenEvent::default() }
}

/// Drives engines alike at random until all sequences have ended; what each computed in each step.
fn play<const ENGINES: usize>(
    policy: &SmallPolicy,
    engines: &mut [Scripted; ENGINES],
    seed: u64,
) -> Vec<[Vec<Chunk>; ENGINES]> {
    let mut random = Random::new(seed);
    let (mut steps, mut opened) = (Vec::new(), 0);
    while opened < 60 || engines.iter().any(|scripted| !scripted.open.is_empty()) {
        assert!(steps.len() < 20_000, "somebody starves: {:?}", engines[0].open);
        if opened < 60 && random.one_in(4) {
            let (prompt, members) = (1 + random.below(70), 1 + random.below(4) as u64);
            let token_ids = policy.text(&mut random, prompt);
            let numbers: Vec<u64> = (opened..opened + members).collect();
            engines.iter_mut().for_each(|scripted| scripted.open(token_ids.clone(), numbers.clone()));
            opened += members;
        }
        let (ends, number, tokens) = (random.one_in(3), random.below(1000), 1 + random.below(30));
        let observation = policy.text(&mut random, tokens);
        let (leaves, leaving) = (random.one_in(25), random.below(1000));
        for scripted in engines.iter_mut() {
            scripted.stopped.sort_unstable();
            if let Some(&stopped) = scripted.stopped.get(number % scripted.stopped.len().max(1)) {
                if ends { scripted.close(stopped) } else { scripted.observe(stopped, &observation) }
            }
            // A client has left, and its number is free; it may come back at once.
            if leaves && let Some(&left) = scripted.open.get(leaving % scripted.open.len().max(1)) {
                scripted.close(left);
                if leaving.is_multiple_of(2) {
                    scripted.open(observation.clone(), vec![left]);
                }
            }
        }
        steps.push(engines.each_mut().map(Scripted::step));
    }
    steps
}

#[test]
fn deciding_ahead_changes_nothing_that_is_computed_where_pages_suffice() {
    let policy = SmallPolicy::open("qwen2_vl_untied_nested", Arc::new(Cpu::new()));
    let limits = EngineLimits { pages: 2000, prefill_chunk_tokens: 64, sequences: 100 };
    for seed in 0..20 {
        let mut engines = [false, true].map(|looks_ahead| Scripted::new(&policy, limits, looks_ahead));
        for (step, [expected, chunks]) in play(&policy, &mut engines, seed).into_iter().enumerate() {
            assert_eq!(chunks, expected, "step {step} of game {seed}");
        }
        let [expected, statistics] = engines.map(|scripted| scripted.engine.statistics());
        assert_eq!(statistics, expected);
        assert!(statistics.computed_tokens > 1000 && statistics.preemptions == 0);
    }
}

#[test]
fn nobody_starves_and_no_page_is_lost_where_they_do_not_suffice() {
    let policy = SmallPolicy::open("qwen2_vl_untied_nested", Arc::new(Cpu::new()));
    // One sequence of a prompt of 70 and its 150 tokens has 14.
    for (seed, pages) in (0..20).zip([14, 17, 25, 40].into_iter().cycle()) {
        let limits = EngineLimits { pages, prefill_chunk_tokens: 16, sequences: 100 };
        let mut engines = [Scripted::new(&policy, limits, true)];
        let steps = play(&policy, &mut engines, seed);
        let [mut scripted] = engines;
        assert_eq!(scripted.engine.pages(), (pages, pages));
        assert!(scripted.engine.statistics().preemptions > 0, "{pages} pages suffice");
        for [chunks] in steps {
            let mut sequences: Vec<u64> = chunks.iter().map(|chunk| chunk.sequence).collect();
            sequences.dedup();
            assert_eq!(sequences.len(), chunks.len(), "nobody is scheduled twice: {chunks:?}");
        }
    }
}

#[test]
fn what_stops_gives_the_page_of_its_next_token_back() {
    let policy = SmallPolicy::open("qwen2_vl_untied_nested", Arc::new(Cpu::new()));
    let limits = EngineLimits { pages: 100, prefill_chunk_tokens: 64, sequences: 100 };
    for prompt in 1..40 {
        let mut scripted = Scripted::new(&policy, limits, true);
        scripted.open(policy.text(&mut Random::new(1), prompt), vec![7]);
        let mut computed = 0;
        while scripted.stopped.is_empty() {
            computed = scripted.step().last().unwrap().tokens.end;
        }
        let (free, all) = scripted.engine.pages();
        assert_eq!(all - free, computed.div_ceil(thyme_engine::ops::attention::PAGE_TOKENS), "{computed} tokens");
    }
}
