//! Pages of keys and values: none is lost, none has two owners, a shared one is never written; and none outlives its weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::kv_cache::{PagePool, PageTable};
use thyme_engine::engine::prefix::PageKey;
use thyme_engine::engine::request::{GenerateRequest, GeneratorError, Sampled, Sampling, Stops, TokenEvent};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::parameters::Weights;
use thyme_engine::ops::attention::PAGE_TOKENS;
use thyme_engine::prompt::PreparedImage;

use crate::support::small_policy::{Game, Random, SmallPolicy};

const CHECKPOINT: &str = "qwen2_5_vl_untied_flat";

/// A table and what was written through it, token by token.
#[derive(Default)]
struct Written {
    page_table: PageTable,
    tokens: Vec<u64>,
}

#[test]
fn pages_survive_random_operations() {
    let mut random = Random::new(3);
    let mut pool = PagePool::new(40);
    let mut memory = vec![[0u64; PAGE_TOKENS]; pool.capacity()];
    let mut page_tables: Vec<Written> = Vec::new();
    let (mut stamp, mut found_pages) = (0, 0);
    // What was once written, to be looked for.
    let mut written: Vec<Vec<u64>> = Vec::new();
    let block = |tokens: &[u64]| -> PageKey { std::array::from_fn(|i| u128::from(tokens[i])) };
    for operation in 0..100_000 {
        match random.below(16) {
            0 if page_tables.len() < 12 => page_tables.push(Written::default()),
            1 | 2 if !page_tables.is_empty() && page_tables.len() < 12 => {
                // A fork: of the whole, or of the first pages.
                let from = &page_tables[random.below(page_tables.len())];
                let tokens = if random.one_in(2) { from.tokens.len() } else { random.below(from.tokens.len() + 1) };
                let page_table = pool.share(&from.page_table, tokens.div_ceil(PAGE_TOKENS));
                let tokens = from.tokens[..tokens].to_vec();
                page_tables.push(Written { page_table, tokens });
            }
            3 if !page_tables.is_empty() => {
                let mut closed = page_tables.swap_remove(random.below(page_tables.len()));
                pool.release(&mut closed.page_table);
                assert!(closed.page_table.pages().is_empty());
                written.push(closed.tokens);
            }
            12 | 13 if !page_tables.is_empty() => {
                let index = random.below(page_tables.len());
                let Written { page_table, tokens } = &mut page_tables[index];
                let next = page_table.cached() * PAGE_TOKENS..(page_table.cached() + 1) * PAGE_TOKENS;
                if let Some(tokens) = tokens.get(next) {
                    pool.insert(page_table, block(tokens));
                }
            }
            15 if !page_tables.is_empty() => {
                // What is behind a page is freed, but nothing that is in the tree.
                let index = random.below(page_tables.len());
                let Written { page_table, tokens } = &mut page_tables[index];
                let pages = page_table.cached() + random.below(page_table.pages().len() - page_table.cached() + 1);
                pool.cut(page_table, pages);
                tokens.truncate(pages * PAGE_TOKENS);
            }
            14 if !written.is_empty() && page_tables.len() < 12 => {
                let wanted = random.pick(&written[written.len().saturating_sub(4)..]);
                let mut page_table = PageTable::default();
                let found = pool.match_prefix(
                    &mut page_table,
                    wanted.as_chunks::<PAGE_TOKENS>().0.iter().map(|tokens| block(tokens)),
                );
                found_pages += found;
                page_tables.push(Written { page_table, tokens: wanted[..found * PAGE_TOKENS].to_vec() });
            }
            _ if !page_tables.is_empty() && pool.available() > 0 => {
                let index = random.below(page_tables.len());
                let Written { page_table, tokens } = &mut page_tables[index];
                // Mostly the next token; sometimes an earlier one, which cuts the sequence there.
                if random.one_in(10) {
                    tokens.truncate(random.below(tokens.len() + 1));
                }
                let position = tokens.len();
                pool.make_writable(page_table, position, |from, to| memory[to as usize] = memory[from as usize]);
                let slot = page_table.slot(position);
                assert_eq!(
                    pool.ref_count((slot / PAGE_TOKENS) as u32),
                    1,
                    "operation {operation} writes to a shared page"
                );
                stamp += 1;
                memory[slot / PAGE_TOKENS][slot % PAGE_TOKENS] = stamp;
                tokens.push(stamp);
            }
            _ => {}
        }
        check(&pool, &page_tables, &memory, operation % 100 == 0);
    }
    for written in &mut page_tables {
        pool.release(&mut written.page_table);
    }
    assert!(found_pages > 100, "{found_pages} pages were found");
    assert_eq!(pool.available(), pool.capacity());
}

fn check(pool: &PagePool, page_tables: &[Written], memory: &[[u64; PAGE_TOKENS]], thoroughly: bool) {
    let mut ref_counts = vec![0; pool.capacity()];
    for Written { page_table, .. } in page_tables {
        for &page in page_table.pages() {
            ref_counts[page as usize] += 1;
        }
    }
    for (page, &ref_count) in ref_counts.iter().enumerate() {
        // The tree may be one more.
        let found = pool.ref_count(page as u32);
        assert!(
            found == ref_count || found == ref_count + 1,
            "page {page} has {found} references, {ref_count} of them from tables"
        );
    }
    assert_eq!(pool.available(), ref_counts.iter().filter(|&&ref_count| ref_count == 0).count());
    if thoroughly {
        for Written { page_table, tokens } in page_tables {
            for (position, &token) in tokens.iter().enumerate() {
                let slot = page_table.slot(position);
                assert_eq!(memory[slot / PAGE_TOKENS][slot % PAGE_TOKENS], token);
            }
        }
    }
}

#[test]
fn all_pages_are_free_after_random_openings_and_closings() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let limits = EngineLimits {
            pages: 8 + random.below(40),
            prefill_chunk_tokens: 1 + random.below(20),
            sequences: 2 + random.below(20),
        };
        let mut game = Game::new(&policy, policy.engine(limits), seed);
        game.play(200);
        assert_eq!(game.engine.pages(), (limits.pages, limits.pages));
    }
}

/// With pages for one sequence alone, a group runs to its end one member after the other, and samples what it samples with room for all.
#[test]
fn a_group_runs_to_its_end_in_the_pages_of_one_sequence() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    for prompt in [1, 15, 16, 17, 31, 32, 33] {
        for total in [1, 15, 16, 17, 40] {
            for members in [1, 2, 4] {
                let pages = usize::div_ceil(prompt + total, PAGE_TOKENS);
                let request = request(&policy, prompt, members, total);
                let limits = |pages| EngineLimits { pages, prefill_chunk_tokens: 10, sequences: 10 };
                let mut engine = policy.engine(limits(pages));
                engine.open(&request).unwrap();
                let (mut sampled, mut stopped) = (BTreeMap::new(), 0);
                while stopped < members {
                    for event in engine.step(&policy.weights).unwrap() {
                        if event.stopped.is_some() {
                            engine.close(event.sequence);
                            stopped += 1;
                        }
                        collect(vec![event], &mut sampled);
                    }
                }
                assert_eq!(engine.pages(), (pages, pages));
                let mut roomy = policy.engine(limits(100));
                roomy.open(&request).unwrap();
                assert_eq!(sampled, sample_all(&mut roomy, &policy.weights), "{prompt} {total} {members}");
                if pages > 1 {
                    let refused = policy.engine(limits(pages - 1)).open(&request);
                    let Err(GeneratorError::NeverFits { needed, pages: there, .. }) = refused else {
                        panic!("{refused:?}")
                    };
                    assert_eq!((needed, there), (pages, pages - 1));
                }
            }
        }
    }
}

#[test]
fn a_sequence_that_never_fits_is_told_from_a_prompt_that_is_too_long() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let mut engine = policy.engine(EngineLimits { pages: 3, prefill_chunk_tokens: 100, sequences: 10 });
    let message = engine.open(&request(&policy, 40, 4, 20)).unwrap_err().to_string();
    for said in ["20 tokens", "prompt of 40", "needs 4 pages", "has 3", "max_total_tokens", "kv_cache_bytes"] {
        assert!(message.contains(said), "{message}");
    }
    let context = policy.model.config.context_tokens;
    assert!(matches!(engine.open(&request(&policy, context, 4, 20)), Err(GeneratorError::TooLong { .. })));
}

#[test]
fn a_group_waits_while_as_many_are_open_as_may_be() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let (first, mut second) = (request(&policy, 40, 2, 20), request(&policy, 40, 2, 20));
    second.sequences = vec![7, 8];
    let mut engine = policy.engine(EngineLimits { pages: 100, prefill_chunk_tokens: 100, sequences: 3 });
    engine.open(&first).unwrap();
    assert!(matches!(engine.open(&second), Err(GeneratorError::Full)), "four are more than three");
    engine.close(0);
    engine.open(&second).unwrap();
}

/// Stopped sequences keep their pages while nobody needs them, then lose them first; what they had is computed again.
#[test]
fn stopped_sequences_give_way_first() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let mut waiting = request(&policy, 40, 1, 60);
    waiting.stops.turn_tokens = 3;
    let other = |numbers: std::ops::Range<u64>| GenerateRequest {
        sequences: numbers.collect(),
        token_ids: policy.text(&mut Random::new(9), 30),
        ..request(&policy, 30, 1, 60)
    };
    let play = |pages: usize| {
        let mut engine = policy.engine(EngineLimits { pages, prefill_chunk_tokens: 100, sequences: 10 });
        engine.open(&waiting).unwrap();
        let mut sampled = sample_all(&mut engine, &policy.weights);
        let held = engine.pages();
        engine.open(&other(1..3)).unwrap();
        for (number, tokens) in sample_all(&mut engine, &policy.weights) {
            sampled.entry(number).or_default().extend(tokens);
        }
        let statistics = engine.statistics();
        (1..3).for_each(|number| engine.close(number));
        engine.append(0, &[5; 7], &[]).unwrap();
        for (number, tokens) in sample_all(&mut engine, &policy.weights) {
            sampled.entry(number).or_default().extend(tokens);
        }
        (held, statistics.preemptions, sampled)
    };
    let (held, preemptions, expected) = play(100);
    assert_eq!((held, preemptions), ((97, 100), 0));
    let (held, preemptions, sampled) = play(7);
    assert_eq!(held, (4, 7));
    assert!(preemptions >= 1, "the two need more than four pages");
    assert_eq!(sampled, expected);
}

/// A group's prompt is computed once: what its members compute besides, and the pages they take, are a few tokens each.
#[test]
fn a_group_costs_little_more_than_one_until_it_samples() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    const PROMPT: usize = 200;
    let cost = |members: usize| {
        let mut engine = policy.engine(EngineLimits { pages: 400, prefill_chunk_tokens: 32, sequences: 8 });
        engine.open(&request(&policy, PROMPT, members, 30)).unwrap();
        let mut sampled = BTreeMap::new();
        while sampled.len() < members {
            collect(engine.step(&policy.weights).unwrap(), &mut sampled);
        }
        let (free, all) = engine.pages();
        (engine.statistics().computed_tokens, all - free)
    };
    let ((one_tokens, one_pages), (tokens, pages)) = (cost(1), cost(8));
    // The first members sample while the last of the prompt is computed, so a few tokens are decoded among them.
    assert!(tokens <= one_tokens + 8 * 2 && tokens * 100 <= one_tokens * 115, "{tokens} tokens, {one_tokens} for one");
    assert!(pages <= one_pages + 7, "{pages} pages, {one_pages} for one");
}

/// What a sequence leaves, another finds: the same text, and the same picture from another file, but not another picture.
#[test]
fn a_beginning_that_was_computed_is_found_by_its_content() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let (mut token_ids, mut images) = policy.text_and_pictures(&mut Random::new(2), 50, 1);
    images[0] = policy.pictures[0].clone();
    let pad = policy.processor.special_ids().image_pad;
    let first = token_ids.iter().position(|&id| id == pad).unwrap_or(0);
    token_ids.retain(|&id| id != pad);
    token_ids.splice(first..first, vec![pad; policy.processor.image_tokens(&images[0])]);
    let open = |number: u64, images: Vec<Arc<PreparedImage>>, engine: &mut Engine| {
        let request = GenerateRequest {
            token_ids: token_ids.clone(),
            images,
            sequences: vec![number],
            ..request(&policy, 1, 1, 20)
        };
        let before = engine.statistics().cached_tokens;
        engine.open(&request).unwrap();
        let sampled = sample_all(engine, &policy.weights).remove(&number).unwrap();
        engine.close(number);
        (sampled, engine.statistics().cached_tokens - before)
    };
    let mut engine = policy.engine(EngineLimits { pages: 100, prefill_chunk_tokens: 100, sequences: 10 });
    let (sampled, found) = open(0, images.clone(), &mut engine);
    assert_eq!(found, 0);
    let again = vec![Arc::new(PreparedImage::clone(&images[0]))];
    let whole = (token_ids.len() - 1) / PAGE_TOKENS * PAGE_TOKENS;
    assert_eq!(open(1, again, &mut engine), (sampled.clone(), whole as u64));
    let mut other = PreparedImage::clone(&images[0]);
    other.patches.iter_mut().for_each(|level| *level ^= 0x80);
    other.digest ^= 1;
    let (different, found) = open(2, vec![Arc::new(other)], &mut engine);
    assert_eq!(found, (first / PAGE_TOKENS * PAGE_TOKENS) as u64);
    assert_ne!(different, sampled);
    engine.release_pages();
    assert_eq!(open(3, images.clone(), &mut engine), (sampled, 0), "pages that were freed are not found");
}

#[test]
fn a_prompt_that_leaves_no_position_is_too_long() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let context = policy.model.config.context_tokens;
    let mut engine = policy.engine(EngineLimits { pages: 1000, prefill_chunk_tokens: 8192, sequences: 3 });
    let refused = engine.open(&request(&policy, context, 1, 5));
    assert!(
        matches!(refused, Err(GeneratorError::TooLong { needed, limit }) if needed == context + 1 && limit == context)
    );
    let refused = engine.open(&GenerateRequest { token_ids: Vec::new(), ..request(&policy, 1, 1, 5) });
    assert!(matches!(refused, Err(GeneratorError::EmptyPrompt)), "{refused:?}");
    engine.open(&request(&policy, context - 2, 1, 5)).unwrap();
    assert_eq!(sample_all(&mut engine, &policy.weights)[&0].len(), 2);
}

#[test]
fn an_observation_that_leaves_no_room_is_too_long_and_changes_nothing() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let mut request = request(&policy, 20, 1, 30);
    request.stops.turn_tokens = 10;
    let mut engine = policy.engine(EngineLimits { pages: 10, prefill_chunk_tokens: 100, sequences: 3 });
    engine.open(&request).unwrap();
    sample_all(&mut engine, &policy.weights);
    let refused = engine.append(0, &[5; 20], &[]);
    assert!(matches!(refused, Err(GeneratorError::TooLong { needed: 51, limit: 50 })), "{refused:?}");
    engine.append(0, &[5; 19], &[]).unwrap();
    assert_eq!(sample_all(&mut engine, &policy.weights)[&0].len(), 1);
    assert!(matches!(engine.append(9, &[5], &[]), Err(GeneratorError::Unknown(9))));
}

/// Samples under one version, then under another; what follows must be what a fresh engine samples from the same tokens. Groups, a
/// stopped sequence that goes on later, and a number of pages that is just enough.
#[test]
fn sequences_go_on_under_new_weights_as_on_a_fresh_engine() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let old = Weights { version: 1, ..golden(CHECKPOINT).weights(&policy.model).unwrap() };
    let new = Weights { version: 2, model: old.model, values: moved(&policy, &old) };
    for (steps, chunk) in [(1, 500), (3, 7), (12, 500), (25, 16), (35, 40)] {
        let mut request = request(&policy, 40, 3, 40);
        request.stops.turn_tokens = 30;
        request.images = vec![policy.pictures[0].clone()];
        let pads = policy.processor.image_tokens(&policy.pictures[0]);
        request.token_ids[3..3 + pads].fill(policy.processor.special_ids().image_pad);
        let limits = EngineLimits { pages: 2 + 3 * 3, prefill_chunk_tokens: chunk, sequences: 3 };
        let mut engine = policy.engine(limits);
        engine.open(&request).unwrap();
        let mut before: BTreeMap<u64, Vec<Sampled>> = BTreeMap::new();
        for _ in 0..steps {
            collect(engine.step(&old).unwrap(), &mut before);
        }
        let mut after = sample_all(&mut engine, &new);
        let observations: [&[u32]; 3] = [&[4], &[4, 9], &[4, 9, 6]];
        // They stopped together and go on at different times.
        for (number, observation) in (0..).zip(observations) {
            engine.append(number, observation, &[]).unwrap();
            after.entry(number).or_default().extend(sample_all(&mut engine, &new).remove(&number).unwrap_or_default());
        }
        for (number, observation) in (0..).zip(observations) {
            let earlier = before.remove(&number).unwrap_or_default();
            let mut alone = GenerateRequest { sequences: vec![number], ..request.clone() };
            alone.token_ids.extend(earlier.iter().map(|token| token.id));
            alone.stops.turn_tokens -= earlier.len();
            if alone.stops.turn_tokens == 0 {
                alone.token_ids.extend(observation);
                alone.stops.turn_tokens = 30;
            }
            let mut fresh = policy.engine(EngineLimits { pages: 100, prefill_chunk_tokens: 64, sequences: 3 });
            fresh.open(&alone).unwrap();
            let expected = sample_all(&mut fresh, &new).remove(&number).unwrap_or_default();
            let common = expected.len().min(after[&number].len());
            assert!(common >= 5, "{common} sampled after {}", earlier.len());
            assert_eq!(after[&number][..common], expected[..common], "sequence {number} after {steps} steps");
        }
        (0..3).for_each(|number| engine.close(number));
        assert_eq!(engine.pages(), (limits.pages, limits.pages));
    }
}

/// Two checkpoints of one shape and one version take turns on an engine; neither sees pages that the other has filled. With one identity for both
/// the second would read the keys and values of the first.
#[test]
fn two_models_in_one_engine_share_no_pages() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let first = golden(CHECKPOINT).weights(&policy.model).unwrap();
    let second = Weights::new(moved(&policy, &first));
    assert_eq!((first.version, second.version), (0, 0));
    let limits = EngineLimits { pages: 100, prefill_chunk_tokens: 500, sequences: 4 };
    let sample = |engine: &mut Engine, weights: &Weights, number: u64| {
        let request =
            GenerateRequest { sequences: vec![number], first_counter: Some(0), ..request(&policy, 40, 1, 12) };
        engine.open(&request).unwrap();
        let sampled = sample_all(engine, weights).remove(&number).unwrap();
        engine.close(number);
        sampled
    };
    let alone = |weights: &Weights| sample(&mut policy.engine(limits), weights, 0);
    let mut shared = policy.engine(limits);
    for (number, weights) in [&first, &second, &first, &second].into_iter().enumerate() {
        assert_eq!(sample(&mut shared, weights, number as u64), alone(weights), "turn {number}");
    }
    assert_eq!(shared.statistics().cached_tokens, 0);
    let mistaken = Weights { model: first.model, ..second };
    let mut shared = policy.engine(limits);
    sample(&mut shared, &first, 0);
    assert_ne!(sample(&mut shared, &mistaken, 1), alone(&mistaken), "the test would not see shared pages");
}

#[test]
fn a_new_version_of_the_same_weights_changes_no_token() {
    let policy = SmallPolicy::open(CHECKPOINT, Arc::new(Cpu::new()));
    let sample_with = |change: bool| {
        let mut weights = golden(CHECKPOINT).weights(&policy.model).unwrap();
        let mut engine = policy.engine(EngineLimits { pages: 2 + 4 * 4, prefill_chunk_tokens: 9, sequences: 4 });
        engine.open(&request(&policy, 33, 4, 45)).unwrap();
        let mut sampled = BTreeMap::new();
        for step in 1..=300 {
            collect(engine.step(&weights).unwrap(), &mut sampled);
            // Computing everything again takes about 35 steps of 9 tokens; then the sequences get somewhere.
            weights.version += u64::from(change && step % 60 == 0);
        }
        assert!(engine.step(&weights).unwrap().is_empty(), "all have stopped");
        sampled
    };
    let (still, changing) = (sample_with(false), sample_with(true));
    assert!(still.values().map(Vec::len).sum::<usize>() > 100);
    assert_eq!(changing, still);
}

fn request(policy: &SmallPolicy, prompt: usize, members: usize, total: usize) -> GenerateRequest {
    GenerateRequest {
        token_ids: policy.text(&mut Random::new(prompt as u64), prompt),
        sequences: (0..members as u64).collect(),
        seed: 11,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stops: Stops { turn_tokens: 1000, total_tokens: total, ..Stops::default() },
        ..GenerateRequest::default()
    }
}

fn golden(name: &str) -> Checkpoint {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model");
    Checkpoint::open(golden.join(name)).unwrap()
}

/// Other weights of the same shapes: matrices with their signs turned.
fn moved(
    policy: &SmallPolicy,
    weights: &Weights,
) -> thyme_engine::model::parameters::Parameters<thyme_engine::ops::Tensor> {
    use thyme_engine::model::parameters::Parameters;
    use thyme_engine::ops::{Dtype, Host};
    let backend = &*policy.model.backend;
    let mut values = weights.values.iter();
    Parameters::from_layout(&policy.model.layout, |spec| {
        let turned: Vec<f32> = backend.to_f32(values.next().unwrap()).iter().map(|x| -x).collect();
        backend.upload(Host::F32(&turned), &spec.shape, Dtype::Bf16)
    })
}

fn collect(events: Vec<TokenEvent>, sampled: &mut BTreeMap<u64, Vec<Sampled>>) {
    for event in events {
        sampled.entry(event.sequence).or_default().extend(event.token);
    }
}

/// Steps until nothing runs.
fn sample_all(engine: &mut Engine, weights: &Weights) -> BTreeMap<u64, Vec<Sampled>> {
    let mut sampled = BTreeMap::new();
    let mut idle = 0;
    while idle < 20 {
        let before: usize = sampled.values().map(Vec::len).sum();
        let (free, _) = engine.pages();
        collect(engine.step(weights).unwrap(), &mut sampled);
        let after: usize = sampled.values().map(Vec::len).sum();
        // A step of prefill samples nothing but takes pages, or fills the last of them.
        idle = if before == after && free == engine.pages().0 { idle + 1 } else { 0 };
    }
    sampled
}
