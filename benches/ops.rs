//! Every op on the CPU, forward and backward, at the shapes of the shipped tiny model and of a layer of 1,024: time, rate, and the share of what
//! this machine does at best, measured first. Inputs stay as warm as the caches keep them, so bytes are held against a copy of as many bytes.
//!
//!     cargo bench --bench ops                          (behind `--`, words of the rows that are wanted: linear, rms_norm_forward, 1024)

#[path = "measure/cases.rs"]
mod cases;
#[path = "measure/clock.rs"]
mod clock;
#[path = "measure/peaks.rs"]
mod peaks;
#[path = "measure/rows.rs"]
mod rows;
#[path = "measure/timer.rs"]
mod timer;

use std::sync::Arc;
use std::time::Duration;

use cases::{Runner, Sizes, Vision};
use clock::timed;
use peaks::Peaks;
use rows::{Cost, Wanted, time_text};
use thyme_engine::cpu::Cpu;
use thyme_engine::ops::Backend;
use thyme_engine::ops::attention::Heads;
use timer::median_seconds;

const BUDGET: Duration = Duration::from_millis(300);

const TINY: Sizes = Sizes {
    name: "tiny",
    dim: 128,
    hidden: 384,
    heads: Heads { heads: 4, kv_heads: 2, head_dim: 32 },
    vocab: 768,
    layers: &["gate_up"],
    products: &[96, 1024],
    products_backward: &[1024],
    rows: &[1024],
    packed: &[(1024, 256)],
    decode: &[(96, 256, 1)],
    head: &[1024],
    sampled: 96,
    parameters: 1 << 16,
    vision: Some(Vision {
        patches: 256,
        dim: 128,
        hidden: 256,
        heads: Heads { heads: 4, kv_heads: 4, head_dim: 32 },
        window: 64,
    }),
};

const LARGE: Sizes = Sizes {
    name: "1024",
    dim: 1024,
    hidden: 2816,
    heads: Heads { heads: 16, kv_heads: 4, head_dim: 64 },
    vocab: 32_768,
    layers: &["gate_up"],
    products: &[96, 1024],
    products_backward: &[1024],
    rows: &[1024],
    packed: &[(1024, 256)],
    decode: &[(96, 1024, 1)],
    head: &[1024],
    sampled: 96,
    parameters: 1 << 23,
    vision: Some(Vision {
        patches: 1024,
        dim: 1280,
        hidden: 3420,
        heads: Heads { heads: 16, kv_heads: 16, head_dim: 80 },
        window: 64,
    }),
};

/// Times calls, and prints each as it is known.
struct Timing {
    backend: Arc<dyn Backend>,
    wanted: Wanted,
    peaks: Peaks,
}

impl Runner for Timing {
    fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    fn wants(&self, ops: &[&str]) -> bool {
        ops.iter().any(|op| self.wanted.has(op)) || ["tiny", "vision", "1024"].iter().any(|name| self.wanted.has(name))
    }

    fn run(&mut self, op: &str, case: &str, cost: Cost, work: &mut dyn FnMut(&dyn Backend)) {
        if !self.wanted.has(&format!("{op} {case}")) {
            return;
        }
        let seconds = median_seconds(BUDGET, || timed(|| work(&*self.backend)));
        let (share, rate) = cost.share(seconds, self.peaks.flop, self.peaks.bytes(cost.bytes));
        println!("{op:<24}{case:<34}{:>12}{rate:>16}{:>7.0} %", time_text(seconds), 100.0 * share);
    }
}

fn main() {
    let wanted = Wanted::from_arguments();
    let peaks = Peaks::measure();
    println!(
        "{} threads, {}: {:.0} GFLOP/s of multiply-adds in f32; {:.0} GB/s of memory, {:.0} GB/s where 1 MiB is moved",
        rayon::current_num_threads(),
        peaks.instructions,
        peaks.flop / 1e9,
        peaks.bytes(f64::from(1 << 29)) / 1e9,
        peaks.bytes(f64::from(1 << 20)) / 1e9,
    );
    println!("{:<24}{:<34}{:>12}{:>16}{:>9}", "op", "case", "median", "rate", "of peak");
    let mut timing = Timing { backend: Arc::new(Cpu::new()), wanted, peaks };
    // As the commands do it: parallel work is shared from where it stands.
    rayon::scope(|_| [TINY, LARGE].iter().for_each(|sizes| cases::all(&mut timing, sizes)));
}
