//! What the engine samples and when it stops: seeds, neighbours, greedy, stop strings, limits, adaptive temperature, what it refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{
    AdaptiveTemperature, GenerateRequest, GeneratorError, HistoryPart, Sampled, StopReason, Stops,
};
use thyme_engine::engine::sampling::constraints::Constraints;
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Keep;
use thyme_engine::model::batch::Batch;
use thyme_engine::prompt::PreparedImage;
use thyme_engine::prompt::positions::positions;

use crate::support::small_policy::{Random, SmallPolicy};

const LIMITS: EngineLimits = EngineLimits { pages: 400, prefill_chunk_tokens: 64, sequences: 100 };

fn policy() -> SmallPolicy {
    SmallPolicy::open("qwen2_vl_untied_nested", Arc::new(Cpu::new()))
}

fn request(policy: &SmallPolicy, sequences: Vec<u64>) -> GenerateRequest {
    let mut random = Random::new(17);
    let (token_ids, images) = policy.text_and_pictures(&mut random, 20, 1);
    GenerateRequest {
        token_ids,
        images,
        sequences,
        seed: 5,
        stops: Stops { turn_tokens: 40, total_tokens: 200, ..Stops::default() },
        ..GenerateRequest::default()
    }
}

/// Steps until `numbers` have stopped.
fn turn(
    policy: &SmallPolicy,
    engine: &mut Engine,
    numbers: &[u64],
) -> (BTreeMap<u64, Vec<Sampled>>, BTreeMap<u64, StopReason>) {
    let (mut sampled, mut reasons): (BTreeMap<u64, Vec<Sampled>>, _) = (BTreeMap::new(), BTreeMap::new());
    while !numbers.iter().all(|number| reasons.contains_key(number)) {
        for event in engine.step(&policy.weights).unwrap() {
            sampled.entry(event.sequence).or_default().extend(event.token);
            reasons.extend(event.stopped.map(|reason| (event.sequence, reason)));
        }
    }
    (sampled, reasons)
}

fn ids(sampled: &[Sampled]) -> Vec<u32> {
    sampled.iter().map(|token| token.id).collect()
}

#[test]
fn the_same_seed_samples_the_same_tokens_whatever_else_is_in_the_batch() {
    let policy = policy();
    let mut alone = policy.engine(LIMITS);
    alone.open(&request(&policy, vec![6])).unwrap();
    let expected = turn(&policy, &mut alone, &[6]).0;

    let mut crowded = policy.engine(EngineLimits { prefill_chunk_tokens: 5, ..LIMITS });
    let mut random = Random::new(23);
    let mut others = 100;
    let mut sampled = Vec::new();
    while sampled.len() < expected[&6].len() {
        if others == 103 {
            crowded.open(&request(&policy, vec![4, 6, 9])).unwrap();
        }
        if random.one_in(3) {
            let mut other = request(&policy, vec![others]);
            (other.token_ids, other.images) = (policy.text(&mut random, 30), Vec::new());
            crowded.open(&other).unwrap();
        }
        others += 1;
        for event in crowded.step(&policy.weights).unwrap() {
            sampled.extend(event.token.filter(|_| event.sequence == 6));
        }
        if random.one_in(5) {
            crowded.close(others - 1 - random.below(10) as u64);
        }
    }
    assert_eq!(sampled, expected[&6]);
}

#[test]
fn an_image_that_nobody_holds_any_more_is_forgotten() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    // Pictures of its own, which the policy does not keep.
    let mut show = |number: u64| {
        let mut request = request(&policy, vec![number]);
        request.images = request.images.iter().map(|image| Arc::new(PreparedImage::clone(image))).collect();
        let image = Arc::downgrade(&request.images[0]);
        engine.open(&request).unwrap();
        turn(&policy, &mut engine, &[number]);
        engine.close(number);
        image
    };
    let first = show(1);
    show(2);
    assert!(first.upgrade().is_none(), "the engine grows with every picture that it is shown");
    let counts = engine.statistics();
    assert_eq!(counts.encoded_images, 1, "what was made of the first serves the second");
}

#[test]
fn seeds_and_sequence_numbers_change_what_is_sampled() {
    let policy = policy();
    let sample = |seed: u64, number: u64| {
        let mut engine = policy.engine(LIMITS);
        engine.open(&GenerateRequest { seed, ..request(&policy, vec![number]) }).unwrap();
        ids(&turn(&policy, &mut engine, &[number]).0[&number])
    };
    let first = sample(5, 6);
    assert_eq!(first, sample(5, 6));
    assert_ne!(first, sample(6, 6));
    assert_ne!(first, sample(5, 7));
}

#[test]
fn temperature_zero_samples_the_likeliest_token() {
    let policy = policy();
    let mut request = request(&policy, vec![0]);
    request.sampling.temperature = 0.0;
    request.images.clear();
    request.token_ids = policy.text(&mut Random::new(2), 12);
    let mut engine = policy.engine(LIMITS);
    engine.open(&request).unwrap();
    let sampled = &turn(&policy, &mut engine, &[0]).0[&0];

    let (model, backend) = (&policy.model, &*policy.model.backend);
    let all: Vec<u32> = request.token_ids.iter().copied().chain(ids(sampled)).collect();
    let batch = Batch {
        positions: positions(&all, &[], model.config.merge(), model.config.image_pad).unwrap().0,
        bounds: vec![0, all.len()],
        ids: all,
        ..Batch::default()
    };
    let (h, _) = model.forward(&policy.weights, &batch, None, Keep::Nothing);
    let logits = backend.to_f32(&model.logits(&policy.weights, &h));
    for (i, token) in sampled.iter().enumerate() {
        let row = &logits[(request.token_ids.len() + i - 1) * model.config.vocab..][..model.config.vocab];
        let mut sampled_from = row.to_vec();
        model.config.placeholders().into_iter().for_each(|id| sampled_from[id as usize] = f32::NEG_INFINITY);
        let top = sampled_from.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(sampled_from.iter().position(|&z| z == top), Some(token.id as usize), "token {i}");
        let logprob = |z: &[f32]| top - z.iter().map(|z| z.exp()).sum::<f32>().ln();
        let is_near =
            (token.logprob - logprob(row)).abs().max((token.logprob_at_temperature - logprob(&sampled_from)).abs())
                < 1e-4;
        assert!(token.temperature == 0.0 && is_near, "{token:?}");
    }
}

/// Takes every pair of neighbouring bytes of what is sampled as a stop string: most span tokens.
#[test]
fn a_stop_string_fires_at_the_token_that_completes_it_also_across_tokens() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    engine.open(&request(&policy, vec![0])).unwrap();
    let free = ids(&turn(&policy, &mut engine, &[0]).0[&0]);
    let text = policy.bytes(&free);
    let mut spanning = 0;
    for width in [2, 5, 11] {
        for start in (0..text.len() - width).step_by(7) {
            let string = String::from_utf8(text[start..start + width].to_vec()).unwrap();
            let completes = |&tokens: &usize| {
                let so_far = policy.bytes(&free[..tokens]);
                so_far.windows(width).any(|window| window == string.as_bytes())
            };
            let expected = (1..=free.len()).find(completes).unwrap();
            spanning += usize::from(policy.bytes(&free[expected - 1..expected]).len() < width);
            let mut request = request(&policy, vec![0]);
            request.stops.strings = vec!["absent".into(), string.clone()];
            let mut engine = policy.engine(LIMITS);
            engine.open(&request).unwrap();
            let (sampled, reasons) = turn(&policy, &mut engine, &[0]);
            assert_eq!(ids(&sampled[&0]), free[..expected], "{string:?}");
            assert_eq!(reasons[&0], StopReason::Text(1), "{string:?}");
        }
    }
    assert!(spanning > 10, "{spanning} strings spanned tokens");
}

#[test]
fn a_stop_string_is_not_looked_for_across_an_observation() {
    let policy = policy();
    let mut request = request(&policy, vec![0]);
    request.stops.turn_tokens = 1;
    let mut engine = policy.engine(LIMITS);
    engine.open(&request).unwrap();
    let mut free = Vec::new();
    for _ in 0..8 {
        free.extend(ids(&turn(&policy, &mut engine, &[0]).0[&0]));
        engine.append(0, &[40], &[]).unwrap();
    }
    // The last byte of the third turn and the first of the fourth.
    let (third, fourth) = (policy.bytes(&free[2..3]), policy.bytes(&free[3..4]));
    let string = String::from_utf8(vec![third[third.len() - 1], fourth[0]]).unwrap();
    let never_within = |id: &u32| !policy.bytes(&[*id]).windows(2).any(|window| window == string.as_bytes());
    assert!(free.iter().all(never_within), "another seed, please: {string:?}");
    request.stops.strings = vec![string];
    let mut engine = policy.engine(LIMITS);
    engine.open(&request).unwrap();
    for &id in &free {
        let (sampled, reasons) = turn(&policy, &mut engine, &[0]);
        assert_eq!((ids(&sampled[&0]), reasons[&0]), (vec![id], StopReason::TurnTokens));
        engine.append(0, &[40], &[]).unwrap();
    }
}

#[test]
fn a_token_of_the_stop_list_stops_and_is_kept() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    engine.open(&request(&policy, vec![0])).unwrap();
    let free = ids(&turn(&policy, &mut engine, &[0]).0[&0]);
    let mut stopping = request(&policy, vec![0]);
    stopping.stops.token_ids = vec![free[9]];
    let first = free.iter().position(|&id| id == free[9]).unwrap();
    engine.close(0);
    engine.open(&stopping).unwrap();
    let (sampled, reasons) = turn(&policy, &mut engine, &[0]);
    assert_eq!(ids(&sampled[&0]), free[..=first]);
    assert_eq!(reasons[&0], StopReason::Token(free[9]));
}

#[test]
fn limits_count_a_turn_anew_and_the_total_with_observations() {
    let policy = policy();
    let mut request = request(&policy, vec![0]);
    request.stops.turn_tokens = 7;
    request.stops.total_tokens = 20;
    let mut engine = policy.engine(LIMITS);
    engine.open(&request).unwrap();
    let mut lengths = Vec::new();
    let mut reasons = Vec::new();
    loop {
        let (sampled, reason) = turn(&policy, &mut engine, &[0]);
        lengths.push(sampled[&0].len());
        reasons.push(reason[&0]);
        if engine.append(0, &[3, 3], &[]).is_err() {
            break;
        }
    }
    assert_eq!(lengths, [7, 7, 2]);
    assert_eq!(reasons, [StopReason::TurnTokens, StopReason::TurnTokens, StopReason::TotalTokens]);
}

/// Whether the text so far ends inside tags: a plain reading, from the start.
fn is_inside(text: &[u8]) -> bool {
    let find =
        |from: usize, tag: &[u8]| Some(from + text[from..].windows(tag.len()).position(|w| w == tag)? + tag.len());
    let mut at = 0;
    loop {
        let Some(open) = find(at, b"<code>") else { return false };
        let Some(close) = find(open, b"</code>") else { return true };
        at = close;
    }
}

#[test]
fn the_temperature_changes_within_a_generation_behind_each_tag() {
    let policy = policy();
    let (mut inside, mut outside, mut changes) = (0, 0, 0);
    for number in 0..30 {
        let mut request = request(&policy, vec![number]);
        request.sampling.temperature = 1.3;
        request.adaptive =
            Some(AdaptiveTemperature { open: "<code>".into(), close: "</code>".into(), temperature: 0.4 });
        let mut engine = policy.engine(LIMITS);
        engine.open(&request).unwrap();
        let (sampled, reasons) = turn(&policy, &mut engine, &[number]);
        let sampled = &sampled[&number];
        for (i, token) in sampled.iter().enumerate() {
            let expected = if is_inside(&policy.bytes(&ids(&sampled[..i]))) { 0.4 } else { 1.3 };
            assert_eq!(token.temperature, expected, "sequence {number}, token {i}");
            inside += usize::from(expected == 0.4);
            outside += usize::from(expected == 1.3);
            changes += usize::from(i > 0 && sampled[i - 1].temperature != token.temperature);
        }
        if reasons[&number] == StopReason::TurnTokens {
            // An observation with the other tag changes nothing.
            let tag = if is_inside(&policy.bytes(&ids(sampled))) { "</code>" } else { "<code>" };
            let tag = policy.processor.tokenizer().token_id(tag).unwrap();
            engine.append(number, &[tag], &[]).unwrap();
            let next = turn(&policy, &mut engine, &[number]).0[&number][0];
            let expected = if is_inside(&policy.bytes(&ids(sampled))) { 0.4 } else { 1.3 };
            assert_eq!(next.temperature, expected);
        }
    }
    assert!(inside > 50 && outside > 50 && changes > 20, "{inside} {outside} {changes}");
}

#[test]
fn a_number_can_be_used_again_while_others_of_its_group_are_open() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    engine.open(&request(&policy, vec![0, 1])).unwrap();
    let expected = turn(&policy, &mut engine, &[0, 1]).0;
    engine.close(0);
    engine.open(&request(&policy, vec![0, 2])).unwrap();
    assert_eq!(turn(&policy, &mut engine, &[0]).0[&0], expected[&0]);
    (0..3).for_each(|number| engine.close(number));
    assert_eq!(engine.pages(), (LIMITS.pages, LIMITS.pages));
}

#[test]
fn the_others_go_on_when_the_one_that_computes_their_prompt_is_closed() {
    let policy = policy();
    let mut alone = policy.engine(LIMITS);
    alone.open(&request(&policy, vec![2])).unwrap();
    let expected = turn(&policy, &mut alone, &[2]).0;
    for steps in 0..10 {
        let mut engine = policy.engine(EngineLimits { prefill_chunk_tokens: 4, ..LIMITS });
        engine.open(&request(&policy, vec![0, 1, 2])).unwrap();
        for leaving in 0..2 {
            for _ in 0..steps / 2 {
                engine.step(&policy.weights).unwrap();
            }
            engine.close(leaving);
        }
        let (sampled, reasons) = turn(&policy, &mut engine, &[2]);
        let missed = expected[&2].len() - sampled[&2].len();
        assert_eq!(sampled[&2], expected[&2][missed..], "closed after {steps} steps");
        assert_eq!(reasons[&2], StopReason::TurnTokens);
        engine.close(2);
        assert_eq!(engine.pages(), (LIMITS.pages, LIMITS.pages));
    }
}

#[test]
fn a_cut_image_is_refused_and_nothing_is_left_of_it() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    let mut cut = request(&policy, vec![0]);
    cut.stops.turn_tokens = 3;
    let whole = cut.clone();
    let pad = policy.processor.special_ids().image_pad;
    let last = cut.token_ids.iter().rposition(|&id| id == pad).unwrap();
    cut.token_ids.truncate(last);
    assert!(matches!(engine.open(&cut), Err(GeneratorError::Failed(_))));
    engine.open(&whole).unwrap();
    turn(&policy, &mut engine, &[0]);
    assert!(matches!(engine.append(0, &[pad], &[]), Err(GeneratorError::Failed(_))));
    engine.append(0, &[4], &[]).unwrap();
    turn(&policy, &mut engine, &[0]);
    engine.close(0);
    engine.close(99);
    assert_eq!(engine.pages(), (LIMITS.pages, LIMITS.pages));
}

/// A sequence that is opened with a part of another one's turns goes on as that did, to the bit: its temperatures, penalties, limits and random numbers
/// are where they were.
#[test]
fn a_history_counts_as_if_it_had_been_sampled() {
    let policy = policy();
    let tags = AdaptiveTemperature { open: "<code>".into(), close: "</code>".into(), temperature: 0.4 };
    let tag = |tag: &str| policy.processor.tokenizer().token_id(tag).unwrap();
    let bias = BTreeMap::from([(tag("<code>"), 1.5), (tag("</code>"), 1.5)]);
    let mut temperatures = Vec::new();
    for number in 0..8 {
        let mut request = request(&policy, vec![number]);
        request.sampling.turn_temperatures = vec![1.3, 0.9];
        request.sampling.repetition_penalty = 1.2;
        request.adaptive = Some(tags.clone());
        let (token_ids, images) = policy.text_and_pictures(&mut Random::new(number + 40), 12, 1);
        request.constraints =
            Arc::new(Constraints { bias: bias.clone(), frequency_penalty: 0.3, ..Constraints::default() });
        request.stops = Stops { turn_tokens: 25, total_tokens: 2 * (25 + token_ids.len()) + 14, ..Stops::default() };
        let play = |request: &GenerateRequest, turns_left: usize| {
            let mut engine = policy.engine(LIMITS);
            engine.open(request).unwrap();
            let mut turns = Vec::new();
            for left in (0..turns_left).rev() {
                let (mut sampled, reasons) = turn(&policy, &mut engine, &[number]);
                turns.push((sampled.remove(&number).unwrap(), reasons[&number]));
                if left > 0 {
                    engine.append(number, &token_ids, &images).unwrap();
                }
            }
            turns
        };
        let whole = play(&request, 3);
        for cut in [0, 1, 11, 24] {
            let parts_of = |turn: usize| [HistoryPart::Sampled(whole[turn].0.clone()), observed(&token_ids, &images)];
            let mut history = parts_of(0).to_vec();
            history.push(HistoryPart::Sampled(whole[1].0[..cut].to_vec()));
            let from_second = play(&GenerateRequest { history, ..request.clone() }, 2);
            assert_eq!(from_second[0], (whole[1].0[cut..].to_vec(), whole[1].1), "sequence {number}, {cut}");
            assert_eq!(from_second[1], whole[2]);
            let cut = cut.min(whole[2].0.len() - 1);
            let mut history = [parts_of(0), parts_of(1)].concat();
            history.push(HistoryPart::Sampled(whole[2].0[..cut].to_vec()));
            let from_third = play(&GenerateRequest { history, ..request.clone() }, 1);
            assert_eq!(from_third[0], (whole[2].0[cut..].to_vec(), whole[2].1), "sequence {number}, {cut}");
        }
        temperatures.extend(whole.iter().flat_map(|(sampled, _)| sampled.iter().map(|token| token.temperature)));
        assert_eq!((whole[2].0.len(), whole[2].1), (14, StopReason::TotalTokens));
    }
    let count = |temperature: f32| temperatures.iter().filter(|found| **found == temperature).count();
    let counts = [1.3, 0.9, 0.4].map(count);
    println!("tokens at each temperature: {counts:?}");
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

fn observed(token_ids: &[u32], images: &[Arc<PreparedImage>]) -> HistoryPart {
    HistoryPart::Observed { token_ids: token_ids.to_vec(), images: images.to_vec() }
}

#[test]
fn a_history_that_leaves_no_room_is_refused() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    let mut request = request(&policy, vec![0]);
    let context = policy.model.config.context_tokens;
    let ids = vec![5; context - request.token_ids.len()];
    request.history = vec![observed(&ids, &[])];
    let refused = engine.open(&request);
    assert!(
        matches!(refused, Err(GeneratorError::TooLong { needed, limit }) if (needed, limit) == (context + 1, context)),
        "{refused:?}"
    );
}
