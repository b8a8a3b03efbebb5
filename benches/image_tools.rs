//! The tools that work in this process, each by a call from its request to its output, beside a Python worker that does the same as a tool server
//! would at best: it is warm, has Pillow and OpenCV loaded, and gets and gives pictures as PNG over a pipe. A tool has to be three times as fast.
//! Its pictures are decoded already, as they are in a rollout, once for a group. What the worker's caller would have to encode and decode
//! does not count.
//!
//!     cargo bench --bench image_tools
//!     cargo bench --bench image_tools -- rotate      # The tools whose names have the word.

#[path = "image_tools/cases.rs"]
mod cases;
#[path = "measure/photograph.rs"]
mod photograph;
#[path = "image_tools/worker.rs"]
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::RgbImage;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::tool::{Subject, Tool, ToolOutput};
use thyme_engine::sandbox::png;

use cases::{Case, Pictures, trajectory};
use worker::PythonWorker;

/// How many times as fast as Python a tool has to be.
const RATIO_MIN: f64 = 3.0;
/// Time of each measurement.
const BUDGET: Duration = Duration::from_millis(400);
/// Calls of each, at least and at most.
const CALLS_MIN: usize = 5;
const CALLS_MAX: usize = 20_000;
/// The tool that runs code, which `cargo bench --bench tool_latency -- crop` measures.
const IN_THE_JAIL: &str = "python";

/// Seconds of calls, sorted.
struct Seconds(Vec<f64>);

impl Seconds {
    /// Of as many calls as fit the budget, by what each says that it took. One goes before them, to warm up.
    fn of(mut once: impl FnMut() -> f64) -> Seconds {
        once();
        let began = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < CALLS_MIN || began.elapsed() < BUDGET && seconds.len() < CALLS_MAX {
            seconds.push(once());
        }
        seconds.sort_by(f64::total_cmp);
        Seconds(seconds)
    }

    fn at(&self, share: f64) -> f64 {
        self.0[(share * (self.0.len() - 1) as f64).round() as usize]
    }

    fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// A case that is ready to run.
struct Bench<'a> {
    case: &'a Case,
    tool: Arc<dyn Tool>,
    request: String,
    pictures: Vec<Arc<RgbImage>>,
    images: TrajectoryImages,
}

impl<'a> Bench<'a> {
    fn new(registry: &Registry, case: &'a Case) -> Self {
        let table = toml::from_str(case.keys).expect("the keys of a table");
        let tool = registry.tool(case.only_in, &(case.tool.to_owned(), table)).expect("the tool starts");
        let request = tool.request(&case.arguments).expect("the arguments fit");
        let pictures = case.pictures.drawn();
        let images = trajectory(&pictures);
        Self { case, tool, request, pictures, images }
    }

    /// Runs the call for the budget in one session and gives each output to `each`.
    fn run(&self, mut each: impl FnMut(&ToolOutput)) -> Seconds {
        let subject = Subject { images: &[], folder: Path::new(""), image_name: "picture.png" };
        let mut session = self.tool.open(&subject, 1).expect("a session").remove(0);
        Seconds::of(|| {
            let began = Instant::now();
            let output = session.run(&self.request, &self.images).expect("the tool works");
            let seconds = began.elapsed().as_secs_f64();
            assert!(output.status.is_ok(), "{}: {}", self.case.tool, output.text);
            each(&output);
            seconds
        })
    }

    /// Calls a second of a session on each core.
    fn calls_on_all_cores(&self, cores: usize) -> f64 {
        let calls = AtomicUsize::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    self.run(|_| {
                        calls.fetch_add(1, Ordering::Relaxed);
                    })
                });
            }
        });
        calls.into_inner() as f64 / began.elapsed().as_secs_f64()
    }

    /// Seconds of the same in the worker, and there of the operation alone; none for a tool without a counterpart.
    fn run_in_python(&self, worker: &mut PythonWorker, made: &[(u32, u32)]) -> Option<(Seconds, Seconds)> {
        let (operation, arguments) = self.case.python.as_ref()?;
        let sent = &self.pictures[..self.case.pictures.sent()];
        let files: Vec<Vec<u8>> = sent.iter().map(|picture| png(picture).expect("a PNG")).collect();
        let mut alone = Vec::new();
        let whole = Seconds::of(|| {
            let began = Instant::now();
            let reply = worker.call(operation, arguments, &files);
            let seconds = began.elapsed().as_secs_f64();
            if alone.is_empty() {
                let size = |file: &Vec<u8>| image::load_from_memory(file).expect("a PNG").to_rgb8().dimensions();
                let sizes: Vec<(u32, u32)> = reply.images.iter().map(size).collect();
                assert_eq!(sizes, made, "{}: Python makes what the tool makes", self.case.tool);
            }
            alone.push(reply.seconds);
            seconds
        });
        alone.sort_by(f64::total_cmp);
        Some((whole, Seconds(alone)))
    }

    /// Measures and prints a row; how many times as fast as Python it is.
    fn row(&self, cores: usize, worker: Option<&mut PythonWorker>) -> Option<f64> {
        let mut made = Vec::new();
        let own = self.run(|output| made = output.images.iter().map(|image| image.pixels.dimensions()).collect());
        let on_one = own.0.len() as f64 / own.0.iter().sum::<f64>();
        let on_all = self.calls_on_all_cores(cores);
        let python = worker.and_then(|worker| self.run_in_python(worker, &made));
        let ratio = python.as_ref().map(|(whole, _)| whole.median() / own.median());
        let large = if self.case.pictures == Pictures::LargePhotograph { ", 4000x3000" } else { "" };
        let only_in = self.case.only_in.map(|environment| format!(" of {environment}")).unwrap_or_default();
        let compared = match (&python, ratio) {
            (Some((whole, alone)), Some(ratio)) => {
                let below = if ratio < RATIO_MIN { "  BELOW 3x" } else { "" };
                format!("{:>11.3}{:>11.3}{ratio:>9.1}x{below}", 1e3 * whole.median(), 1e3 * alone.median())
            }
            _ => format!("{:>11}{:>11}{:>10}", "-", "-", "-"),
        };
        println!(
            "{:<42}{on_one:>10.0}{on_all:>10.0}{:>11.3}{:>11.3}{compared}",
            format!("{}{only_in}{large}", self.case.tool),
            1e3 * own.median(),
            1e3 * own.at(0.95),
        );
        ratio
    }
}

/// Stops where a tool of the registry has no case.
fn check_that_none_lacks(registry: &Registry, cases: &[Case]) {
    for tool in registry.tools().filter(|tool| tool.name != IN_THE_JAIL) {
        let has_case = cases.iter().any(|case| (case.tool, case.only_in) == (tool.name, tool.only_in));
        assert!(has_case, "{} has no case in benches/image_tools/cases.rs", tool.name);
    }
}

fn main() {
    let (registry, cases) = (Registry::default(), cases::all());
    // `cargo bench` adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |case: &&Case| words.is_empty() || words.iter().any(|word| case.tool.contains(word));
    check_that_none_lacks(&registry, &cases);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut worker = PythonWorker::start().map_err(|reason| println!("Python is left out: {reason}")).ok();
    if let Some(worker) = &worker {
        println!("pictures of 1024x768 unless a row says otherwise; beside {} over a pipe", worker.versions);
    }
    println!("{:<42}{:>20}{:>22}{:>22}", "", "calls/s on", "latency in ms", "Python, median in ms");
    println!(
        "{:<42}{:>10}{:>10}{:>11}{:>11}{:>11}{:>11}{:>10}",
        "tool",
        "1 thread",
        format!("{cores} cores"),
        "median",
        "p95",
        "with PNG",
        "without",
        "faster"
    );
    let mut slow = Vec::new();
    for case in cases.iter().filter(is_wanted) {
        let ratio = Bench::new(&registry, case).row(cores, worker.as_mut());
        if ratio.is_some_and(|ratio| ratio < RATIO_MIN) {
            slow.push(case.tool);
        }
    }
    match (worker, slow.is_empty()) {
        (None, _) => {}
        (Some(_), true) => println!("each tool is at least {RATIO_MIN} times as fast as the worker"),
        (Some(_), false) => println!("less than {RATIO_MIN} times as fast as the worker: {}", slow.join(", ")),
    }
}
