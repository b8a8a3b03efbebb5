//! How long a decoding step takes, op by op, and what the engine itself adds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::checkpoint::init::random_weights;
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, Sampling, Stops};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::model::config::Config;

use crate::support::over_cpu::delegate_ops;

const SEQUENCES: u64 = 96;
const CONTEXT: usize = 300;
const STEPS: usize = 100;

#[test]
#[ignore = "a measurement; run: cargo test --release --test it engine_speed -- --ignored --nocapture"]
fn a_decoding_step_costs_little_beyond_its_ops() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let timed = Arc::new(Timed { cpu: Cpu::new(), spent: Mutex::default() });
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny");
        // Without pictures no token is a placeholder, which would stop a sequence that samples it.
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let processor = Arc::new(checkpoint.processor(None).unwrap());
        let config = Config { image_pad: u32::MAX, ..checkpoint.config };
        let model = Model::new(config, timed.clone());
        let weights = random_weights(&model, 1);
        let limits = EngineLimits { pages: 4000, prefill_chunk_tokens: 2048, sequences: 100 };
        let mut engine = Engine::new(model, processor, limits);
        for number in 0..SEQUENCES {
            engine.open(&request(number)).unwrap();
        }
        let step = |engine: &mut Engine| {
            let events = engine.step(&weights).unwrap();
            events.iter().filter(|event| event.token.is_some()).count() as u64
        };
        while step(&mut engine) < SEQUENCES {}
        // Medians over steps: others may have the core in some of them.
        let (mut beyond, mut steps, mut ops) = (Vec::new(), Vec::new(), BTreeMap::<_, Vec<f64>>::new());
        for _ in 0..STEPS {
            timed.spent.lock().unwrap().clear();
            let start = Instant::now();
            assert_eq!(step(&mut engine), SEQUENCES);
            let total = start.elapsed().as_secs_f64();
            let spent = std::mem::take(&mut *timed.spent.lock().unwrap());
            beyond.push(total - spent.values().sum::<f64>());
            steps.push(total);
            spent.into_iter().for_each(|(op, seconds)| ops.entry(op).or_default().push(seconds));
        }
        let mut lines: Vec<(f64, &str)> = ops.into_iter().map(|(op, seconds)| (median_ms(seconds), op)).collect();
        lines.sort_by(|a, b| b.0.total_cmp(&a.0));
        let beyond = median_ms(beyond);
        lines.extend([(beyond, "beyond the ops"), (median_ms(steps), "a step")]);
        lines.iter().for_each(|(ms, what)| println!("{what:24} {ms:7.3} ms"));
        assert!(beyond < 2.0, "the engine adds {beyond} ms to a step");
    });
}

fn median_ms(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2] * 1e3
}

fn request(number: u64) -> GenerateRequest {
    GenerateRequest {
        token_ids: (0..CONTEXT - STEPS / 2).map(|i| ((i as u64 * 31 + number * 7) % 750) as u32).collect(),
        sequences: vec![number],
        seed: 3,
        sampling: Sampling { top_k: 700, ..Sampling::default() },
        stops: Stops {
            strings: vec!["</code>".into(), "</answer>".into()],
            turn_tokens: 1000,
            total_tokens: STEPS + 100,
            ..Stops::default()
        },
        ..GenerateRequest::default()
    }
}

/// The CPU with a clock for each op.
struct Timed {
    cpu: Cpu,
    spent: Mutex<BTreeMap<&'static str, f64>>,
}

impl Timed {
    fn call<T>(&self, op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T {
        let start = Instant::now();
        let output = compute(&self.cpu);
        *self.spent.lock().unwrap().entry(op).or_default() += start.elapsed().as_secs_f64();
        output
    }
}

delegate_ops!(Timed);
