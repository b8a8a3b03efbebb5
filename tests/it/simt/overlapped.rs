//! Steps whose forward is launched before the tokens of the step before are read: what is sampled is as if each step had waited.

use std::collections::BTreeMap;
use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::engine::request::{GenerateRequest, Sampled, Sampling, Stops};
use thyme_engine::engine::speculation::Speculation;
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::ops::{Buffers, Dtype, Host};

use super::fast;
use crate::support::small_policy::SmallPolicy;

/// What each sequence said, and how many steps overlapped, of how many.
type Played = (BTreeMap<u64, Vec<Sampled>>, u64, u64);

/// What happens between the steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    /// A sequence is paused for a while, one is closed early, one goes on after it stopped, and one is opened late.
    Disturbances,
    /// Once, the weights become others.
    NewWeights,
}

/// Seven or eight sequences that stop one after the other.
fn play(policy: &SmallPolicy, mut engine: Engine, top_logprobs: usize, between: Between) -> Played {
    let open = |engine: &mut Engine, number: u64| {
        let request = GenerateRequest {
            token_ids: (0..9 + number as u32).map(|i| 5 + (i * 7 + number as u32) % 600).collect(),
            sequences: vec![number],
            seed: 11,
            sampling: Sampling {
                temperature: if number.is_multiple_of(3) { 0.0 } else { 1.0 },
                repetition_penalty: if number.is_multiple_of(2) { 1.2 } else { 1.0 },
                ..Sampling::default()
            },
            stops: Stops { turn_tokens: 12 + 5 * number as usize, total_tokens: 90, ..Stops::default() },
            top_logprobs,
            ..GenerateRequest::default()
        };
        engine.open(&request).unwrap();
    };
    (0..7).for_each(|number| open(&mut engine, number));
    let mut said: BTreeMap<u64, Vec<Sampled>> = BTreeMap::new();
    let mut has_gone_on = false;
    let (mut steps, other) = (0, thyme_engine::checkpoint::init::random_weights(&policy.model, 5));
    loop {
        let is_other = between == Between::NewWeights && steps >= 30;
        let weights = if is_other { &other } else { &policy.weights };
        let events = engine.step(weights).unwrap();
        if events.is_empty() {
            return (said, engine.statistics().overlapped_steps, steps);
        }
        for event in &events {
            said.entry(event.sequence).or_default().extend(event.token);
        }
        steps += 1;
        if between == Between::NewWeights {
            continue;
        }
        match steps {
            8 => engine.pause(5),
            9 => engine.close(6),
            17 => engine.resume(5),
            20 => open(&mut engine, 7),
            _ => {}
        }
        if !has_gone_on && events.iter().any(|event| event.sequence == 1 && event.stopped.is_some()) {
            engine.append(1, &[9, 10, 11], &[]).unwrap();
            has_gone_on = true;
        }
    }
}

#[test]
fn what_overlapped_steps_sample_is_what_steps_one_by_one_sample() {
    let policy = SmallPolicy::of_recipe(Arc::new(fast()));
    let limits = EngineLimits { pages: 60, prefill_chunk_tokens: 64, sequences: 12 };
    let engine = || policy.engine(limits).with_speculation(Speculation::Off);
    for (between, sequences) in [(Between::Disturbances, 8), (Between::NewWeights, 7)] {
        let (overlapped, count, steps) = play(&policy, engine(), 0, between);
        let (expected, none, _) = play(&policy, engine().without_graphs(), 0, between);
        assert_eq!((none, expected.len()), (0, sequences));
        assert!(3 * count > 2 * steps, "{count} of {steps} steps overlapped");
        for (number, said) in &expected {
            assert_eq!(&overlapped[number], said, "sequence {number}");
        }
        let (waiting, none, _) = play(&policy, engine().without_overlap(), 0, between);
        assert_eq!((&waiting, none), (&expected, 0));
        // Likeliest tokens are read from logits that a launch ahead would overwrite.
        let (with_likeliest, none, _) = play(&policy, engine(), 2, between);
        assert_eq!((with_likeliest, none), (expected, 0));
    }
}

#[test]
fn a_device_that_launches_ahead_hands_ids_over_by_row() {
    let cuda: Cuda = fast();
    let ids = |values: &[i32]| cuda.upload(Host::I32(values), &[values.len()], Dtype::I32);
    let (mut to, from) = (ids(&[-1; 5]), ids(&[10, 11, 12, 13]));
    cuda.copy_indices(&mut to, 1, &from, 1..4);
    let mut found = [0; 5];
    cuda.download(&to, thyme_engine::ops::HostMut::I32(&mut found));
    assert_eq!(found, [-1, 11, 12, 13, -1]);
}
