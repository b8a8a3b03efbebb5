//! Constraints in the engine: groups, neighbours, engines that are too small, observations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, Sampled, StopReason, Stops};
use thyme_engine::engine::sampling::constraints::Constraints;
use thyme_engine::engine::sampling::grammar::{Form, Grammars};
use thyme_engine::engine::{Engine, EngineLimits};

use crate::support::small_policy::{Random, SmallPolicy};

const LIMITS: EngineLimits = EngineLimits { pages: 400, prefill_chunk_tokens: 64, sequences: 100 };

fn policy() -> SmallPolicy {
    SmallPolicy::open("qwen2_vl_untied_nested", Arc::new(Cpu::new()))
}

fn request(policy: &SmallPolicy, sequences: std::ops::Range<u64>, constraints: Constraints) -> GenerateRequest {
    GenerateRequest {
        token_ids: policy.text(&mut Random::new(17), 30),
        sequences: sequences.collect(),
        constraints: Arc::new(constraints),
        seed: 5,
        stops: Stops { turn_tokens: 60, total_tokens: 150, ..Stops::default() },
        ..GenerateRequest::default()
    }
}

/// Steps until so many have stopped; what each sampled, and why it stopped.
fn play(policy: &SmallPolicy, engine: &mut Engine, sequences: usize) -> BTreeMap<u64, (Vec<Sampled>, StopReason)> {
    let (mut sampled, mut played): (BTreeMap<u64, Vec<Sampled>>, _) = (BTreeMap::new(), BTreeMap::new());
    while played.len() < sequences {
        for event in engine.step(&policy.weights).unwrap() {
            let sequence = event.sequence;
            sampled.entry(sequence).or_default().extend(event.token);
            if let Some(reason) = event.stopped {
                let tokens = sampled.remove(&sequence).unwrap_or_default();
                assert!(played.insert(sequence, (tokens, reason)).is_none(), "{sequence} stopped twice");
            }
        }
    }
    played
}

/// Four times three words such as `t60.` and `stop`; penalties, and words that are bad.
fn everything(policy: &SmallPolicy, eos: u32) -> Constraints {
    let tokenizer = policy.processor.tokenizer();
    let grammars = Grammars::new(tokenizer, policy.model.config.vocab, &[eos]).unwrap();
    Constraints {
        bias: BTreeMap::from([(eos, -1.0)]),
        presence_penalty: 0.3,
        frequency_penalty: 0.4,
        bad_words: vec![vec![60, 61], vec![70]],
        grammar: Some(grammars.compile(&Form::Regex(r"((t[0-9]{2,3}\.){3}stop){4}".to_owned())).unwrap()),
        ..Constraints::default()
    }
}

#[test]
fn constraints_hold_in_engines_that_are_too_small_and_leave_neighbours_alone() {
    let policy = policy();
    let eos = policy.processor.special_ids().im_end;
    let constrained = GenerateRequest {
        stops: Stops { turn_tokens: 60, total_tokens: 150, token_ids: vec![eos], ..Stops::default() },
        ..request(&policy, 0..3, everything(&policy, eos))
    };
    let other = GenerateRequest { top_logprobs: 2, ..request(&policy, 3..6, Constraints::default()) };
    let play_in = |pages: usize, requests: &[&GenerateRequest]| {
        let mut engine = policy.engine(EngineLimits { pages, ..LIMITS });
        requests.iter().for_each(|request| engine.open(request).unwrap());
        let sequences = requests.iter().map(|request| request.sequences.len()).sum();
        (play(&policy, &mut engine, sequences), engine.statistics().preemptions)
    };
    let (expected, preemptions) = play_in(400, &[&constrained]);
    assert_eq!(preemptions, 0);
    let mut texts = BTreeSet::new();
    for (sampled, reason) in expected.values() {
        assert_eq!(*reason, StopReason::Token(eos));
        let ids: Vec<u32> = sampled.iter().map(|token| token.id).collect();
        let text = policy.processor.tokenizer().decode(&ids, true);
        let parts: Vec<&str> = text.strip_suffix("stop").unwrap_or_else(|| panic!("{text}")).split("stop").collect();
        assert_eq!(parts.len(), 4, "{text}");
        let is_part =
            |part: &&str| part.split_terminator('.').filter(|word| word[1..].parse::<u32>().is_ok()).count() == 3;
        assert!(parts.iter().all(is_part) && !text.contains("t70."), "{text}");
        texts.insert(text);
    }
    assert_eq!(texts.len(), 3, "each member of a group is in its own place of the grammar");

    let (alone, _) = play_in(400, &[&other]);
    let (beside, preemptions) = play_in(12, &[&constrained, &other]);
    assert!(preemptions >= 2, "12 pages are too few for six sequences, {preemptions}");
    for (number, played) in expected.iter().chain(&alone) {
        assert_eq!(played, &beside[number], "{number}");
    }
}

/// A penalty that outweighs all else lets each of three tokens come in turn.
#[test]
fn penalties_count_the_models_own_tokens_of_all_turns() {
    let policy = policy();
    let allowed = vec![10, 11, 12];
    let constraints =
        Constraints { allowed: Some(allowed.clone()), frequency_penalty: 500.0, ..Constraints::default() };
    let mut request = request(&policy, 0..1, constraints);
    request.token_ids.extend([10; 4]);
    request.stops.turn_tokens = 4;
    let mut engine = policy.engine(LIMITS);
    engine.open(&request).unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..3 {
        for token in &play(&policy, &mut engine, 1)[&0].0 {
            *counts.entry(token.id).or_insert(0) += 1;
        }
        engine.append(0, &[11; 5], &[]).unwrap();
    }
    assert_eq!(counts, allowed.into_iter().map(|id| (id, 4)).collect());
}

#[test]
fn a_sequence_stops_where_nothing_is_allowed() {
    let policy = policy();
    let constraints =
        Constraints { allowed: Some(vec![10]), bad_words: vec![vec![10, 10, 10]], ..Constraints::default() };
    for temperature in [0.0, 1.0] {
        let mut request = request(&policy, 0..2, constraints.clone());
        request.sampling.temperature = temperature;
        let mut engine = policy.engine(LIMITS);
        engine.open(&request).unwrap();
        for (sampled, reason) in play(&policy, &mut engine, 2).values() {
            assert_eq!((sampled.len(), *reason), (2, StopReason::NothingAllowed));
        }
    }
}
