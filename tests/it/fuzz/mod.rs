//! Throws grammars, schemas, templates, pictures, bodies, checkpoints and recipes at the built binary: nothing ends by a signal or a panic,
//! nothing takes longer than ten seconds, and memory comes back. A minute of it is part of the tests; ten minutes are
//!
//!     cargo test --release --test it fuzz_long -- --ignored --nocapture
//!
//! `tests/golden/fuzz/README.md` tells of the corpus and of how a run is repeated.

mod bodies;
mod checkpoints;
mod grammars;
mod images;
mod mutate;
mod recipes;
mod schemas;
mod target;
mod templates;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::support::small_policy::Random;
use checkpoints::Bases;
use mutate::Corpus;
use target::{Input, Outcome, Target};

/// Inputs after which the server's memory is that of a server at work.
const WARM_UP: u64 = 1_050;
/// Memory may grow by so much.
const GROWTH_BYTES_MAX: u64 = 100_000_000;
/// What of all inputs each kind must be, and what of it must come past the parser.
const SHARE_MIN: f64 = 0.10;
const ACCEPTED_MIN: f64 = 0.20;
/// With so many faults a run ends early.
const FAULTS_MAX: usize = 30;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Grammar,
    Schema,
    Template,
    Image,
    Body,
    Checkpoint,
    Recipe,
}

const KINDS: [Kind; 7] =
    [Kind::Grammar, Kind::Schema, Kind::Template, Kind::Image, Kind::Body, Kind::Checkpoint, Kind::Recipe];

impl Kind {
    /// The folder of its corpus.
    fn folder(self) -> &'static str {
        match self {
            Kind::Grammar => "grammars",
            Kind::Schema => "schemas",
            Kind::Template => "templates",
            Kind::Image => "images",
            Kind::Body => "bodies",
            Kind::Checkpoint => "checkpoints",
            Kind::Recipe => "recipes",
        }
    }

    /// Whether an input came past its parser. A request did only if it was answered: the grammar or schema was compiled, the template
    /// rendered, the pictures decoded, the body's fields used, and tokens were sampled or counted. A checkpoint did if it was loaded and used.
    /// A recipe did if it was read and every key known, though a plan may have been refused for a value or for a row of its data.
    fn is_accepted(self, outcome: &Outcome) -> bool {
        match self {
            Kind::Recipe => outcome.status == "exit 0" || (outcome.status == "exit 1" && is_of_plan(&outcome.text)),
            Kind::Checkpoint => ["exit 0", "200"].contains(&outcome.status.as_str()),
            _ => outcome.status == "200",
        }
    }
}

/// Whether an error of `train` speaks of what a recipe asks for, not of how it is written.
fn is_of_plan(text: &str) -> bool {
    let written = ["error: in recipe", "error: in --set", "error: cannot read recipe", "error: recipe "];
    text.contains("error: ") && !written.iter().any(|begin| text.contains(begin))
}

/// What inputs are made from.
struct Source {
    seed: u64,
    corpora: BTreeMap<Kind, Corpus>,
    bases: Bases,
    model: PathBuf,
    kinds: Vec<Kind>,
}

impl Source {
    fn open(seed: u64, model: PathBuf, kinds: Vec<Kind>) -> Source {
        let corpora = KINDS.into_iter().map(|kind| (kind, Corpus::open(kind.folder()))).collect();
        Source { seed, corpora, bases: Bases::open(&model), model, kinds }
    }

    /// The input of this number; the same for the same seed and corpus.
    fn input(&self, number: u64) -> (Kind, Input) {
        let kind = self.kinds[(number % self.kinds.len() as u64) as usize];
        let random = &mut Random::new(self.seed ^ number.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let corpus = &self.corpora[&kind];
        let input = match kind {
            Kind::Grammar => Input::Request(grammars::make(random, corpus)),
            Kind::Schema => Input::Request(schemas::make(random, corpus)),
            Kind::Template => Input::Request(templates::make(random, corpus)),
            Kind::Image => Input::Request(images::make(random, corpus)),
            Kind::Body => Input::Request(bodies::make(random, corpus)),
            Kind::Checkpoint => checkpoints::make(random, corpus, &self.bases),
            Kind::Recipe => recipes::make(random, corpus, &self.model),
        };
        (kind, input)
    }
}

/// What came of the inputs of one kind.
#[derive(Default)]
struct Tally {
    inputs: usize,
    accepted: usize,
    slowest: Duration,
    slowest_number: u64,
    statuses: BTreeMap<String, usize>,
}

/// What came of a run.
#[derive(Default)]
struct Record {
    tallies: BTreeMap<Kind, Tally>,
    faults: Vec<String>,
    /// Inputs that took too long beside others, and not alone.
    slow_in_company: Vec<u64>,
}

/// The size of a run.
struct Size {
    seconds: u64,
    /// Inputs at once.
    workers: usize,
    /// The machine is the run's own: an answer that is late beside others is a fault too.
    has_machine: bool,
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; give a whole number")))
}

/// All kinds, or the one whose folder `THYME_FUZZ_KIND` names.
fn kinds() -> Vec<Kind> {
    let wanted = std::env::var("THYME_FUZZ_KIND").ok();
    let kinds: Vec<Kind> =
        KINDS.into_iter().filter(|kind| wanted.as_ref().is_none_or(|wanted| kind.folder() == wanted)).collect();
    assert!(!kinds.is_empty(), "THYME_FUZZ_KIND is {wanted:?}; give one of {:?}", KINDS.map(Kind::folder));
    kinds
}

fn run(size: &Size) {
    let seconds = variable("THYME_FUZZ_SECONDS").unwrap_or(size.seconds);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = variable("THYME_FUZZ_SEED").unwrap_or_else(now);
    println!("THYME_FUZZ_SEED={seed}, {seconds} s");
    let target = Target::start();
    let source = Source::open(seed, target.model(), kinds());
    let faults = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(seed.to_string());
    if let Some(number) = variable("THYME_FUZZ_INPUT") {
        let (kind, input) = source.input(number);
        input.save(&faults.join(number.to_string()));
        println!("{kind:?} in {}", faults.join(number.to_string()).display());
        let outcome = target.give(&input);
        println!("{outcome:?}");
        assert!(outcome.fault.is_none());
        return;
    }
    let record = Mutex::new(Record::default());
    let next = AtomicU64::new(0);
    let until = Instant::now() + Duration::from_secs(seconds);
    let play = |most: u64| {
        std::thread::scope(|scope| {
            for _ in 0..size.workers {
                scope.spawn(|| {
                    while Instant::now() < until && record.lock().unwrap().faults.len() < FAULTS_MAX {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= most {
                            break;
                        }
                        let (kind, input) = source.input(number);
                        let outcome = target.give(&input);
                        note(&mut record.lock().unwrap(), number, kind, &input, &outcome, &faults);
                    }
                });
            }
        });
    };
    let (before, after) = std::thread::scope(|scope| {
        scope.spawn(|| target.watch());
        play(WARM_UP);
        let before = target.settled_bytes(Duration::from_secs(3));
        next.store(WARM_UP, Ordering::Relaxed);
        play(u64::MAX);
        let after = target.settled_bytes(Duration::from_secs(5));
        target.end_watch();
        (before, after)
    });
    let record = record.into_inner().unwrap();
    report(&record, [before, target.most_bytes(), after]);
    judge(&record, size, before, after, target.is_death_unexplained());
}

fn note(record: &mut Record, number: u64, kind: Kind, input: &Input, outcome: &Outcome, folder: &Path) {
    let tally = record.tallies.entry(kind).or_default();
    tally.inputs += 1;
    tally.accepted += usize::from(kind.is_accepted(outcome));
    *tally.statuses.entry(outcome.status.clone()).or_default() += 1;
    if outcome.took > tally.slowest {
        (tally.slowest, tally.slowest_number) = (outcome.took, number);
    }
    let folder = folder.join(number.to_string());
    if outcome.is_slow_in_company {
        record.slow_in_company.push(number);
        input.save(&folder);
    }
    if let Some(fault) = &outcome.fault {
        input.save(&folder);
        let fault = format!("{kind:?}, THYME_FUZZ_INPUT={number}, {}: {fault}", folder.display());
        println!("{fault}");
        record.faults.push(fault);
    }
}

fn report(record: &Record, [before, most, after]: [u64; 3]) {
    let all: usize = record.tallies.values().map(|tally| tally.inputs).sum();
    println!(
        "{:<12}{:>8}{:>8}{:>10}{:>8}{:>10}{:>10}  statuses",
        "kind", "inputs", "share", "accepted", "share", "slowest", "number"
    );
    for (kind, tally) in &record.tallies {
        println!(
            "{:<12}{:>8}{:>7.1}%{:>10}{:>7.1}%{:>8.2} s{:>10}  {:?}",
            format!("{kind:?}"),
            tally.inputs,
            100.0 * tally.inputs as f64 / all as f64,
            tally.accepted,
            100.0 * tally.accepted as f64 / tally.inputs as f64,
            tally.slowest.as_secs_f64(),
            tally.slowest_number,
            tally.statuses
        );
    }
    println!(
        "{all} inputs, {} faults, slow beside others and not alone: {:?}",
        record.faults.len(),
        record.slow_in_company
    );
    let megabytes = |bytes: u64| bytes / 1_000_000;
    println!(
        "memory of the server in MB: before {}, at most {}, after {}",
        megabytes(before),
        megabytes(most),
        megabytes(after)
    );
}

fn judge(record: &Record, size: &Size, before: u64, after: u64, is_death_unexplained: bool) {
    assert!(record.faults.is_empty(), "{} faults:\n{}", record.faults.len(), record.faults.join("\n"));
    assert!(!is_death_unexplained, "the server ended, and no input alone ends it");
    assert!(!size.has_machine || record.slow_in_company.is_empty(), "late beside others: {:?}", record.slow_in_company);
    assert!(after < before + GROWTH_BYTES_MAX, "memory grew from {before} to {after} bytes");
    let all: usize = record.tallies.values().map(|tally| tally.inputs).sum();
    for (kind, tally) in &record.tallies {
        let (share, accepted) = (tally.inputs as f64 / all as f64, tally.accepted as f64 / tally.inputs as f64);
        assert!(share >= SHARE_MIN, "{kind:?} is {share:.3} of the inputs");
        assert!(accepted >= ACCEPTED_MIN, "{accepted:.3} of {kind:?} came past the parser");
    }
    assert_eq!(record.tallies.len(), kinds().len());
}

#[test]
fn fuzz_minute_of_every_kind_of_input_ends_nothing_and_leaves_no_memory() {
    run(&Size { seconds: 60, workers: 3, has_machine: false });
}

#[test]
#[ignore = "ten minutes; run: cargo test --release --test it fuzz_long -- --ignored --nocapture"]
fn fuzz_long_ten_minutes_of_every_kind_of_input() {
    run(&Size { seconds: 600, workers: 4, has_machine: true });
}
