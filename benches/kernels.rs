//! CUDA's kernels. With a GPU each op is timed at the shapes of Qwen2.5-VL-7B and Qwen2-VL-2B, with a cold L2, by the device's own clock; without
//! one their rows are what the model predicts, from what nvcc makes of the sources. Where rows are named, or there is no GPU, the host device
//! counts what their kernels do.
//!
//!     cargo bench --bench kernels                              every row
//!     cargo bench --bench kernels -- attention_forward         rows that have one of these words, with every count
//!     cargo bench --bench kernels -- --ladder=FOLDER           the rungs of kernels/ladder/ too, whose cubins are in FOLDER
//!     cargo bench --bench kernels -- --budget=20               milliseconds of a row on a GPU, 60 where nothing is said
//!     cargo bench --bench kernels -- --turns                   waits for a line of input behind each row, so that a peer can have its turn
//!     cargo bench --bench kernels -- --rehearse                plays the GPU on the host, at sizes of a toy; the times mean nothing
//!     cargo bench --bench kernels -- --once sample,rope_forward    plays the first row of each of these ops once, for a profiler
//!
//! On a GPU each row is a line of JSON as soon as it is known, {"op", "case", "seconds", "flop", "bytes"}, and the table comes last. The op
//! `limits` is what the GPU does at best: a copy within its memory, and a large product of our own.

#[path = "measure/cases.rs"]
mod cases;
#[path = "kernels/counted.rs"]
mod counted;
#[path = "kernels/ladder.rs"]
mod ladder;
#[path = "kernels/predicted.rs"]
mod predicted;
#[path = "measure/rows.rs"]
mod rows;
#[path = "kernels/sizes.rs"]
mod sizes;
#[path = "measure/timer.rs"]
mod timer;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cases::{Runner, Sizes};
use rows::{Cost, Wanted, bytes, flop, time_text};
use serde_json::json;
use sizes::{MODELS, TOY};
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::gpu::Gpu;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Device, DeviceError};
use thyme_engine::ops::{Backend, Dtype, Tensor};
use timer::median_seconds;

/// Milliseconds of a row.
const BUDGET: u64 = 60;

/// How large everything is.
struct Scale {
    models: &'static [Sizes],
    ladder: ladder::Work,
    /// Bytes that are read before each call: more than any L2 holds.
    flush_bytes: usize,
    /// Bytes of the copy that measures memory, read and written.
    copy_bytes: usize,
    /// Rows, columns and terms of the product that measures the tensor cores.
    product: usize,
}

const ON_GPU: Scale =
    Scale { models: &MODELS, ladder: ladder::ON_GPU, flush_bytes: 256 << 20, copy_bytes: 2 << 30, product: 8192 };
const REHEARSAL: Scale =
    Scale { models: &[TOY], ladder: ladder::REHEARSAL, flush_bytes: 1 << 10, copy_bytes: 1 << 16, product: 64 };

/// A call that was timed.
struct Measured {
    op: String,
    case: String,
    seconds: f64,
    cost: Cost,
}

/// Times calls on a GPU.
struct Timing<'a> {
    device: Arc<dyn Device>,
    cuda: Arc<dyn Backend>,
    flush: Tensor,
    budget: Duration,
    in_turns: bool,
    wanted: &'a Wanted,
    measured: Vec<Measured>,
}

impl Runner for Timing<'_> {
    fn backend(&self) -> Arc<dyn Backend> {
        self.cuda.clone()
    }

    fn wants(&self, ops: &[&str]) -> bool {
        ops.iter().any(|op| self.wanted.has(op))
    }

    fn run(&mut self, op: &str, case: &str, cost: Cost, work: &mut dyn FnMut(&dyn Backend)) {
        if op != LIMITS && !self.wanted.has(&format!("{op} {case}")) {
            return;
        }
        let seconds = median_seconds(self.budget, || {
            self.cuda.sum_of_squares(&[&self.flush]);
            self.device.time(&mut || work(&*self.cuda)).expect("the GPU keeps time")
        });
        println!("{}", json!({"op": op, "case": case, "seconds": seconds, "flop": cost.flop, "bytes": cost.bytes}));
        std::io::stdout().flush().expect("somebody listens");
        if self.in_turns {
            std::io::stdin().read_line(&mut String::new()).expect("somebody answers");
        }
        self.measured.push(Measured { op: op.to_owned(), case: case.to_owned(), seconds, cost });
    }
}

/// The op of what the GPU does at best.
const LIMITS: &str = "limits";

fn limits(timing: &mut Timing<'_>, scale: &Scale) {
    let backend = timing.backend();
    let from = backend.zeros(&[scale.copy_bytes / 8], Dtype::F32);
    timing.run(LIMITS, "copy", bytes(scale.copy_bytes), &mut |b| drop(b.duplicate(&from)));
    drop(from);
    let side = scale.product;
    let [x, w] = [1.0, 0.02].map(|std| backend.random_normal(&[side, side], std, 0, 1));
    timing.run(LIMITS, "product", flop(2 * side * side * side), &mut |b| drop(b.linear_forward(&x, &w, None)));
}

/// Times all that is wanted.
fn time(device: Arc<dyn Device>, scale: &Scale, wanted: &Wanted) {
    println!("{}", device.description());
    let cuda: Arc<dyn Backend> = Arc::new(Cuda::new(device.clone()));
    let flush = cuda.zeros(&[scale.flush_bytes / 4], Dtype::F32);
    let (budget, in_turns) = (budget(), has_option("--turns"));
    let has_ladder = has_option("--rehearse") || ladder_folder().is_some();
    let mut timing = Timing { device: device.clone(), cuda, flush, budget, in_turns, wanted, measured: Vec::new() };
    limits(&mut timing, scale);
    scale.models.iter().for_each(|sizes| cases::all(&mut timing, sizes));
    if has_ladder {
        ladder::all(&mut timing, &device, &scale.ladder);
    }
    print_table(&timing.measured);
}

/// The table of all that was timed.
fn print_table(measured: &[Measured]) {
    let rate = |row: &Measured, amount: f64| amount / row.seconds;
    let copy = measured.iter().find(|row| row.op == LIMITS && row.case == "copy").expect("limits come first");
    let memory = rate(copy, copy.cost.bytes);
    let products = measured.iter().filter(|row| row.op == LIMITS || row.op.starts_with("linear"));
    let product = products.map(|row| rate(row, row.cost.flop)).fold(0.0, f64::max);
    println!(
        "\npeaks of this run: {:.0} GB/s, a copy; {:.0} TFLOP/s, the best product of ours, as no other is measured here",
        memory / 1e9,
        product / 1e12
    );
    println!("{:<30}{:<38}{:>12}{:>18}{:>9}", "op", "case", "median", "rate", "of peak");
    for row in measured {
        let (share, rate) = row.cost.share(row.seconds, product, memory);
        println!("{:<30}{:<38}{:>12}{rate:>18}{:>7.0} %", row.op, row.case, time_text(row.seconds), 100.0 * share);
    }
}

/// Plays the first call of each op once.
struct Playing<'a> {
    device: Arc<dyn Device>,
    cuda: Arc<dyn Backend>,
    wanted: &'a Wanted,
    played: BTreeSet<String>,
}

impl Runner for Playing<'_> {
    fn backend(&self) -> Arc<dyn Backend> {
        self.cuda.clone()
    }

    fn wants(&self, ops: &[&str]) -> bool {
        ops.iter().any(|op| self.wanted.has(op) && !self.played.contains(*op))
    }

    fn run(&mut self, op: &str, _: &str, _: Cost, work: &mut dyn FnMut(&dyn Backend)) {
        if self.wanted.has(op) && self.played.insert(op.to_owned()) {
            work(&*self.cuda);
            self.device.synchronise().expect("the GPU works");
        }
    }
}

fn play(device: Arc<dyn Device>, scale: &Scale, wanted: &Wanted) {
    let cuda = Arc::new(Cuda::new(device.clone()));
    cases::all(&mut Playing { device, cuda, wanted, played: BTreeSet::new() }, &scale.models[0]);
}

fn has_option(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn budget() -> Duration {
    let given = std::env::args().find_map(|argument| Some(argument.strip_prefix("--budget=")?.to_owned()));
    Duration::from_millis(given.map_or(BUDGET, |text| text.parse().expect("--budget=MILLISECONDS")))
}

/// Where the rungs' images are.
fn ladder_folder() -> Option<PathBuf> {
    std::env::args().find_map(|argument| Some(PathBuf::from(argument.strip_prefix("--ladder=")?)))
}

/// The device that is timed, and how large everything is there.
fn device() -> Result<(Arc<dyn Device>, Scale), DeviceError> {
    if has_option("--rehearse") {
        let mut options = SimtOptions::fast();
        options.units.extend(ladder::units().map(|(path, text)| (path.to_owned(), text.to_owned())));
        return Ok((Arc::new(Simt::new(options)?), REHEARSAL));
    }
    let mut gpu = Gpu::new(0)?;
    if let Some(folder) = ladder_folder() {
        ladder::load(&mut gpu, &folder)?;
    }
    Ok((Arc::new(gpu), ON_GPU))
}

fn main() {
    let wanted = Wanted::from_arguments();
    match device() {
        Ok((device, scale)) if has_option("--once") => play(device, &scale, &wanted),
        Ok((device, scale)) => {
            time(device, &scale, &wanted);
            if !wanted.is_everything() {
                counted::print(&wanted);
            }
        }
        // Whoever asked for times gets no prediction in their place.
        Err(error) if ["--rehearse", "--turns", "--once"].into_iter().any(has_option) => panic!("{error}"),
        Err(error) => {
            predicted::print(&wanted, &error.to_string());
            counted::print(&wanted);
        }
    }
}
