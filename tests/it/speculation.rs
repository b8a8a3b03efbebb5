//! Drafts show nowhere but in time: the same tokens, the same bits of their log-probabilities, the same stops, with them and without.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{AdaptiveTemperature, GenerateRequest, Sampled, Sampling, StopReason, Stops};
use thyme_engine::engine::speculation::Speculation;
use thyme_engine::engine::{Engine, EngineLimits, Statistics};
use thyme_engine::prompt::Prompt;
use thyme_engine::rollout::engine_generator::EngineGenerator;
use thyme_engine::rollout::environments::direct::Direct;
use thyme_engine::rollout::repetition::RepetitionSettings;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::trajectory::End;
use thyme_engine::rollout::{RolloutSettings, run};

use crate::support::server::{Server, long};
use crate::support::small_policy::{CHECKPOINTS, Random, SmallPolicy};

/// A token, its numbers as bits, and the likeliest ones in its place.
type TokenBits = (u32, [u32; 6], Vec<(u32, u32)>);

/// What a sequence sampled, and how its turns ended.
#[derive(Clone, PartialEq, Debug, Default)]
struct Heard {
    tokens: Vec<TokenBits>,
    reasons: Vec<(usize, StopReason)>,
}

impl Heard {
    fn token(&mut self, token: &Sampled, top_logprobs: &[(u32, f32)]) {
        let Sampled { id, logprob, logprob_at_temperature, temperature, processed_logprob, kept_mass, entropy } =
            *token;
        let numbers =
            [logprob, logprob_at_temperature, temperature, processed_logprob, kept_mass, entropy].map(f32::to_bits);
        self.tokens.push((id, numbers, top_logprobs.iter().map(|&(id, logprob)| (id, logprob.to_bits())).collect()));
    }

    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.0).collect()
    }
}

/// A run over requests, with what each sequence heard and how many turns ended behind an accepted token of the same step.
struct Played {
    heard: BTreeMap<u64, Heard>,
    statistics: Statistics,
    stops_in_drafts: usize,
}

/// Opens all, and lets each sequence go on behind `turns` observations.
fn play(policy: &SmallPolicy, mut engine: Engine, requests: &[GenerateRequest], turns: usize) -> Played {
    let whole = engine.pages();
    let mut heard: BTreeMap<u64, Heard> = BTreeMap::new();
    let (mut open, mut stops_in_drafts) = (0, 0);
    for request in requests {
        engine.open(request).unwrap();
        open += request.sequences.len();
    }
    while open > 0 {
        let mut of_step: BTreeMap<u64, usize> = BTreeMap::new();
        for event in engine.step(&policy.weights).unwrap() {
            let sequence = event.sequence;
            let own = heard.entry(sequence).or_default();
            own.token(&event.token.unwrap(), &event.top_logprobs);
            *of_step.entry(sequence).or_default() += 1;
            let Some(reason) = event.stopped else { continue };
            own.reasons.push((own.tokens.len(), reason));
            stops_in_drafts += usize::from(of_step[&sequence] > 1);
            let observation = policy.text(&mut Random::new(sequence * 31 + own.reasons.len() as u64), 5);
            if own.reasons.len() > turns || engine.append(sequence, &observation, &[]).is_err() {
                engine.close(sequence);
                open -= 1;
            }
        }
    }
    assert_eq!(engine.pages(), whole, "pages are lost");
    Played { heard, statistics: engine.statistics(), stops_in_drafts }
}

/// A prompt that says the same again and again, with something else in between.
fn repetitive(policy: &SmallPolicy, random: &mut Random) -> Vec<u32> {
    let length = 3 + random.below(9);
    let phrase = policy.text(random, length);
    let mut ids = Vec::new();
    for _ in 0..2 + random.below(4) {
        ids.extend(&phrase);
        let between = random.below(3);
        ids.extend(policy.text(random, between));
    }
    ids.extend(&phrase[..2]);
    ids
}

/// Settings under which random weights say something that can be drafted, and some under which they do not.
fn sampling(random: &mut Random) -> Sampling {
    Sampling {
        temperature: random.pick(&[0.0, 0.02, 0.1, 0.7, 1.0]),
        top_k: random.pick(&[0, 0, 2, 1]),
        top_p: random.pick(&[1.0, 1.0, 0.5]),
        min_p: random.pick(&[0.0, 0.0, 0.3]),
        repetition_penalty: random.pick(&[1.0, 1.0, 1.0, 1.05]),
        turn_temperatures: random.pick(&[&[][..], &[], &[0.7, 0.1]]).to_vec(),
        code_temperature: None,
    }
}

fn requests(policy: &SmallPolicy, random: &mut Random) -> Vec<GenerateRequest> {
    let request = |number: usize| {
        let (mut token_ids, mut images) = (repetitive(policy, random), Vec::new());
        if random.one_in(3) {
            let (before, shown) = policy.text_and_pictures(random, 6, 1);
            token_ids.splice(0..0, before);
            images = shown;
        }
        let first = 10 * number as u64;
        GenerateRequest {
            token_ids,
            images,
            sequences: (first..first + random.pick(&[1, 1, 2, 3])).collect(),
            top_logprobs: random.pick(&[0, 0, 3]),
            seed: random.next(),
            sampling: sampling(random),
            adaptive: random.one_in(2).then(|| AdaptiveTemperature {
                open: "<code>".into(),
                close: "</code>".into(),
                temperature: random.pick(&[0.0, 0.3]),
            }),
            stops: Stops {
                strings: vec!["stop".into(), "code></".into()],
                token_ids: vec![policy.processor.special_ids().im_end],
                turn_tokens: 10 + random.below(60),
                total_tokens: 40 + random.below(100),
            },
            ..GenerateRequest::default()
        }
    };
    (0..4).map(request).collect()
}

#[test]
fn drafts_change_no_token_and_no_bit() {
    let policies: Vec<SmallPolicy> = CHECKPOINTS.map(|name| SmallPolicy::open(name, Arc::new(Cpu::new()))).into();
    let (mut drafted, mut accepted, mut preempted, mut tokens, mut random_accepted) = (0, 0, 0, 0, 0);
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let policy = &policies[seed as usize % policies.len()];
        let requests = requests(policy, &mut random);
        let limits = EngineLimits {
            pages: 14 + random.below(40),
            prefill_chunk_tokens: random.pick(&[3, 9, 33, 500]),
            sequences: 40,
        };
        let without = play(policy, policy.engine(limits), &requests, 2);
        assert_eq!(without.statistics.drafted_tokens, 0);
        for speculation in [Speculation::Always, Speculation::Auto] {
            let engine = policy.engine(limits).with_speculation(speculation);
            let with = play(policy, engine, &requests, 2);
            for (number, heard) in &without.heard {
                assert_eq!(with.heard[number], *heard, "sequence {number} of game {seed} with {speculation:?}");
            }
            let statistics = with.statistics;
            assert!(statistics.accepted_tokens <= statistics.drafted_tokens, "{statistics:?}");
            (drafted, accepted) = (drafted + statistics.drafted_tokens, accepted + statistics.accepted_tokens);
            preempted += statistics.preemptions;
            let is_random = requests.iter().all(|request| request.sampling.temperature > 0.0);
            random_accepted += if is_random { statistics.accepted_tokens } else { 0 };
        }
        tokens += without.heard.values().map(|heard| heard.tokens.len()).sum::<usize>();
    }
    println!("{tokens} tokens, {drafted} drafted, {accepted} accepted, {random_accepted} of random samples alone");
    assert!(accepted > 500 && accepted < drafted, "{accepted} of {drafted} drafted tokens were accepted");
    assert!(random_accepted > 20, "{random_accepted} were accepted where every sample was random");
    assert!(preempted > 10, "{preempted} preemptions");
}

/// A greedy sequence that goes round and round, so that drafts are long.
fn looping(policy: &SmallPolicy) -> GenerateRequest {
    GenerateRequest {
        token_ids: repetitive(policy, &mut Random::new(3)),
        sequences: vec![0],
        seed: 1,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stops: Stops { turn_tokens: 200, total_tokens: 200, ..Stops::default() },
        ..GenerateRequest::default()
    }
}

const ROOMY: EngineLimits = EngineLimits { pages: 200, prefill_chunk_tokens: 500, sequences: 10 };

#[test]
fn a_stop_within_an_accepted_draft_discards_what_is_behind_it() {
    let policy = SmallPolicy::open(CHECKPOINTS[0], Arc::new(Cpu::new()));
    let free = play(&policy, policy.engine(ROOMY), &[looping(&policy)], 0).heard.remove(&0).unwrap().ids();
    let text = policy.bytes(&free);
    let mut stops: Vec<Stops> = Vec::new();
    let unlimited = looping(&policy).stops;
    for at in (5..120).step_by(4) {
        stops.push(Stops { turn_tokens: at, ..unlimited.clone() });
        stops.push(Stops { total_tokens: at, ..unlimited.clone() });
        stops.push(Stops { token_ids: vec![free[at]], ..unlimited.clone() });
        if let Some(part) = text.get(at..at + 7).and_then(|part| std::str::from_utf8(part).ok()) {
            stops.push(Stops { strings: vec![part.to_owned()], ..unlimited.clone() });
        }
    }
    let mut by_kind: BTreeMap<String, usize> = BTreeMap::new();
    for stops in stops {
        let request = GenerateRequest { stops, ..looping(&policy) };
        let without = play(&policy, policy.engine(ROOMY), std::slice::from_ref(&request), 1);
        let engine = policy.engine(ROOMY).with_speculation(Speculation::Always);
        let with = play(&policy, engine, std::slice::from_ref(&request), 1);
        assert_eq!(with.heard, without.heard, "{:?}", request.stops);
        let reason = format!("{:?}", with.heard[&0].reasons[0].1);
        let kind = reason.split('(').next().unwrap_or_default().to_owned();
        *by_kind.entry(kind).or_default() += with.stops_in_drafts;
    }
    println!("{by_kind:?}");
    for kind in ["Text", "TurnTokens", "TotalTokens"] {
        assert!(by_kind.get(kind).is_some_and(|&count| count > 3), "no {kind} within an accepted draft: {by_kind:?}");
    }
}

/// Drafts take pages that are left over and nothing else: where there is just enough for all without them, nobody is preempted for one.
#[test]
fn drafts_take_nobodys_pages() {
    let policy = SmallPolicy::open(CHECKPOINTS[0], Arc::new(Cpu::new()));
    let request = GenerateRequest { sequences: (0..3).collect(), ..looping(&policy) };
    for pages in 14..60 {
        let limits = EngineLimits { pages, ..ROOMY };
        let Ok(()) = policy.engine(limits).open(&request) else { continue };
        let preemptions = [Speculation::Off, Speculation::Always].map(|speculation| {
            let engine = policy.engine(limits).with_speculation(speculation);
            play(&policy, engine, std::slice::from_ref(&request), 0).statistics.preemptions
        });
        assert!(preemptions[1] <= preemptions[0], "{pages} pages: {preemptions:?}");
    }
}

#[test]
fn a_rollout_that_repeats_itself_ends_at_the_same_token() {
    let policy = SmallPolicy::open(CHECKPOINTS[0], Arc::new(Cpu::new()));
    let prompt = Prompt { token_ids: looping(&policy).token_ids, images: Vec::new() };
    let tasks = [Task { prompt: TaskPrompt::Tokens(prompt), ..Task::default() }];
    let settings = RolloutSettings {
        group_size: 2,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        repetition: RepetitionSettings { substring_bytes: 16, share: 0.5, text_bytes_min: 100 },
        ..RolloutSettings::default()
    };
    let environment = Direct { max_turn_tokens: 200, max_total_tokens: 200 };
    let roll_out = |speculation: Speculation| {
        let mut engine = policy.engine(ROOMY).with_speculation(speculation);
        let mut generator = EngineGenerator { engine: &mut engine, weights: &policy.weights };
        let groups = run(&mut generator, &policy.processor, &environment, &tasks, &settings).unwrap();
        let trajectories = groups.into_iter().flat_map(|group| group.trajectories);
        let told: Vec<_> = trajectories.map(|t| (t.text(), t.token_ids, t.sampled, t.end)).collect();
        (told, engine.statistics().accepted_tokens)
    };
    let ((without, none), (with, accepted)) = (roll_out(Speculation::Off), roll_out(Speculation::Always));
    assert!(none == 0 && accepted > 10, "{accepted} drafted tokens were accepted");
    assert!(without.iter().all(|trajectory| trajectory.3 == End::Repetition), "{:?}", without[0].3);
    assert_eq!(with, without);
}

/// Each token of an answer comes with the likeliest ones in its own place, and `/metrics` counts the drafts.
#[test]
fn a_server_that_drafts_answers_the_same() {
    let mut body = long(60);
    body["logprobs"] = json!(3);
    body["return_token_ids"] = json!(true);
    let answers = ["off", "always"].map(|speculation| {
        let server = Server::start(&["--speculation", speculation]);
        let whole = server.complete(body.clone())["choices"][0].clone();
        let streamed = server.stream("/v1/completions", body.clone());
        let text: String = streamed.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(Value::from(text), whole["text"]);
        let count = |name: &str| server.metric(&format!("spec_decode_num_{name}_total"));
        (whole, [count("drafts"), count("draft_tokens"), count("accepted_tokens")])
    });
    let [(without, none), (with, [drafts, drafted, accepted])] = answers;
    assert_eq!(with, without);
    assert_eq!(none, [0.0; 3]);
    assert!(drafts > 2.0 && accepted > 10.0 && drafted >= accepted, "{drafts} {drafted} {accepted}");
}
