//! Promise 2 through the server: the log-probs that clients are told, of plain answers and of trajectories with the server's own tool, while
//! requests crowd each other out of the pages and several tokens are checked in a step, are those that the training forward computes over the same tokens and pictures, to the bit.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use thyme_engine::cpu::Cpu;
use thyme_engine::prompt::{PreparedImage, Processor};
use thyme_engine::tasks::needle::SYSTEM_PROMPT;
use thyme_engine::train::learner::logprobs;
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};

use crate::support::command::{Workplace, succeed};
use crate::support::server::Server;
use crate::support::small_policy::{Random, learner_settings, load};

/// Requests under way.
const CLIENTS: usize = 20;
/// Pictures that are asked about.
const PICTURES: usize = 3;

#[test]
fn one_policy_served() {
    let counts = serve_and_compare(5_000);
    assert!(counts.tokens >= 5_000);
    assert!(counts.preemptions >= 15.0 && counts.cached_tokens >= 1_000.0 && counts.observations >= 8, "{counts:?}");
    assert!(counts.accepted_drafts >= 100.0, "{counts:?}");
}

#[test]
#[ignore = "takes minutes without optimisation; run: cargo test --release --test it one_policy_served_long -- --ignored --nocapture"]
fn one_policy_served_long() {
    println!("{:?}", serve_and_compare(100_000));
}

/// The shipped checkpoint, which sometimes looks at a crop before it answers.
fn checkpoint() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft"))
}

/// What was compared, and what the server did meanwhile.
#[derive(Debug)]
struct Counts {
    tokens: usize,
    observations: usize,
    preemptions: f64,
    cached_tokens: f64,
    accepted_drafts: f64,
}

/// What a client was told of one answer.
#[derive(Default)]
struct Told {
    ids: Vec<u32>,
    /// None for what the model did not sample.
    logprobs: Vec<Option<f32>>,
    pictures: Vec<Vec<u8>>,
    observations: usize,
}

fn serve_and_compare(tokens: usize) -> Counts {
    let workplace = Workplace::new();
    let mut data = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    data.args(["data", "needle", "--seed", "5", "--count", &PICTURES.to_string(), "--out"])
        .arg(workplace.path("needle"));
    succeed(data);
    // Pages for one sequence of full length, which all share.
    let flags = [
        "--env",
        "think_with_code",
        "--max-model-len",
        "480",
        "--kv-cache-memory-bytes",
        "1",
        "--speculation",
        "always",
    ];
    let server = Server::start_on(workplace, checkpoint(), &flags);
    let told = ask(&server, tokens);
    let differing = compare(&told);
    let tokens: usize = told.iter().map(|told| told.logprobs.iter().flatten().count()).sum();
    assert_eq!(differing, 0, "of {tokens} tokens");
    server.wait_for("kv_cache_usage_perc", 0.0);
    Counts {
        tokens,
        observations: told.iter().map(|told| told.observations).sum(),
        preemptions: server.metric("num_preemptions_total"),
        cached_tokens: server.metric("prefix_cache_hits_total"),
        accepted_drafts: server.metric("spec_decode_num_accepted_tokens_total"),
    }
}

/// Asks until so many tokens were sampled, several clients at once.
fn ask(server: &Server, tokens: usize) -> Vec<Told> {
    let sampled = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = |number: usize| {
            let sampled = &sampled;
            move || {
                let mut random = Random::new(number as u64);
                let mut told = Vec::new();
                while sampled.load(Ordering::Relaxed) < tokens {
                    let new = if random.one_in(4) { complete(server, &mut random) } else { chat(server, &mut random) };
                    let tokens = new.iter().map(|told| told.logprobs.iter().flatten().count()).sum();
                    sampled.fetch_add(tokens, Ordering::Relaxed);
                    told.extend(new);
                }
                told
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn sampling(random: &mut Random, mut body: Value) -> Value {
    body["seed"] = (random.below(1000) as u64).into();
    body["n"] = random.pick(&[1, 2, 4]).into();
    body["temperature"] = random.pick(&[1.0, 1.0, 0.7, 0.0]).into();
    body["top_p"] = random.pick(&[1.0, 0.9]).into();
    body["return_token_ids"] = true.into();
    body
}

/// Plain answers, which no tool interrupts; some come as a stream.
fn complete(server: &Server, random: &mut Random) -> Vec<Told> {
    let prompt: Vec<u32> = (0..5 + random.below(40)).map(|place| 300 + (place % 90) as u32).collect();
    let max_tokens = 20 + random.below(150);
    let body = json!({"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": true, "logprobs": 0});
    let body = sampling(random, body);
    let chunks = match random.one_in(2) {
        true => server.stream("/v1/completions", body.clone()),
        false => vec![server.complete(body.clone())],
    };
    let answers = body["n"].as_u64().unwrap() as usize;
    let told = |number: usize| {
        let mut told = Told { ids: prompt.clone(), logprobs: vec![None; prompt.len()], ..Told::default() };
        let pieces = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        for piece in pieces.filter(|piece| piece["index"] == number) {
            told.extend(&piece["token_ids"], &piece["logprobs"]["token_logprobs"]);
        }
        told
    };
    (0..answers).map(told).collect()
}

/// Trajectories about a picture.
fn chat(server: &Server, random: &mut Random) -> Vec<Told> {
    let file = format!("needle/images/{:08}_00.png", random.below(PICTURES));
    let picture = std::fs::read(server.workplace.path(&file)).unwrap();
    let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&picture));
    let question = random.pick(&["\nWhat digit is on the red plate?", "\nWhat digit is on the blue plate?"]);
    let content = json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]);
    let messages = json!([{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": content}]);
    let code_temperature = random.pick(&[0.0, 0.5]);
    let body = json!({"messages": messages, "logprobs": true, "code_temperature": code_temperature});
    let answer = server.chat(sampling(random, body));
    let prompt: Vec<u32> = serde_json::from_value(answer["prompt_token_ids"].clone()).unwrap();
    let told = |choice: &Value| {
        let logprobs = vec![None; prompt.len()];
        let mut told = Told { ids: prompt.clone(), logprobs, pictures: vec![picture.clone()], ..Told::default() };
        for turn in choice["trajectory"].as_array().unwrap() {
            told.extend(&turn["token_ids"], &turn["logprobs"]);
            told.observations += usize::from(turn["kind"] == "observation");
            for url in turn["images"].as_array().into_iter().flatten() {
                let bytes = url.as_str().unwrap().split_once(";base64,").unwrap().1;
                told.pictures.push(BASE64_STANDARD.decode(bytes).unwrap());
            }
        }
        told
    };
    answer["choices"].as_array().unwrap().iter().map(told).collect()
}

impl Told {
    fn extend(&mut self, ids: &Value, logprobs: &Value) {
        self.ids.extend(serde_json::from_value::<Vec<u32>>(ids.clone()).unwrap());
        self.logprobs.extend(serde_json::from_value::<Vec<Option<f32>>>(logprobs.clone()).unwrap());
        assert_eq!(self.ids.len(), self.logprobs.len());
    }
}

/// How many tokens have another log-prob in training.
fn compare(told: &[Told]) -> usize {
    let (model, weights) = load(checkpoint(), Arc::new(Cpu::new()));
    let processor = Processor::open(checkpoint()).unwrap();
    let settings = learner_settings(&processor, false);
    let mut differing = 0;
    for several in told.chunks(5) {
        let samples: Vec<Sample> = several.iter().map(|told| sample(told, &processor)).collect();
        let pack = Pack::new(&samples.iter().collect::<Vec<_>>(), Layout::of(&processor));
        let sampled: Vec<f32> = several.iter().flat_map(|told| told.logprobs.iter().flatten().copied()).collect();
        let found = logprobs(&model, &weights, &pack, &vec![1.0; sampled.len()], &settings);
        assert_eq!(found.logprob.len(), sampled.len());
        differing +=
            sampled.iter().zip(&found.logprob).filter(|(told, found)| told.to_bits() != found.to_bits()).count();
    }
    differing
}

fn sample(told: &Told, processor: &Processor) -> Sample {
    let image = |bytes: &Vec<u8>| {
        let pixels = image::load_from_memory(bytes).unwrap().to_rgb8();
        let prepared: Arc<PreparedImage> = Arc::new(processor.prepare(&pixels).unwrap());
        SampleImage { prepared, unmerged_features: None }
    };
    Sample {
        ids: told.ids.clone(),
        trained: told.logprobs.iter().map(Option::is_some).collect(),
        images: told.pictures.iter().map(image).collect(),
    }
}
