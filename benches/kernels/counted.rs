//! What the checked host device counts of the kernels, at small shapes: instructions of warps, bytes, bank conflicts; and what of it grew since it
//! was counted last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::counts::Counts;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::ops::Backend;
use thyme_engine::ops::attention::Heads;

use crate::cases::{self, Runner, Sizes, Vision};
use crate::rows::{Cost, Wanted};

/// Of each kind of tile a few, and edges.
const SMALL: Sizes = Sizes {
    name: "small",
    dim: 512,
    hidden: 256,
    heads: Heads { heads: 4, kv_heads: 2, head_dim: 128 },
    vocab: 1000,
    layers: &["gate_up"],
    products: &[144],
    products_backward: &[144],
    rows: &[64],
    packed: &[(256, 128)],
    decode: &[(2, 200, 1)],
    head: &[64],
    sampled: 4,
    parameters: 1 << 13,
    vision: Some(Vision {
        patches: 128,
        dim: 160,
        hidden: 320,
        heads: Heads { heads: 2, kv_heads: 2, head_dim: 80 },
        window: 64,
    }),
};

/// More than so many percent more is worse.
const TOLERATED: f64 = 5.0;

/// What is compared, in the order of [`compared`].
const COMPARED: [&str; 3] = ["instructions", "bytes", "conflicts"];

fn compared(of: &Counts) -> [u64; 3] {
    [of.instructions(), of.global_read_bytes + of.global_written_bytes, of.conflicts()]
}

/// What the last runs counted, by op, case and kernel.
type Last = BTreeMap<String, [u64; 3]>;

fn last_file() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel_counts.json")
}

/// Plays each call once.
struct Counting<'a> {
    simt: Arc<Simt>,
    cuda: Arc<Cuda>,
    wanted: &'a Wanted,
    last: Last,
}

impl Runner for Counting<'_> {
    fn backend(&self) -> Arc<dyn Backend> {
        self.cuda.clone()
    }

    fn wants(&self, ops: &[&str]) -> bool {
        ops.iter().any(|op| self.wanted.has(op))
    }

    fn run(&mut self, op: &str, case: &str, _: Cost, work: &mut dyn FnMut(&dyn Backend)) {
        if !self.wanted.has(&format!("{op} {case}")) {
            return;
        }
        self.simt.count();
        work(&*self.cuda);
        let counts = self.simt.counts();
        if self.wanted.is_everything() {
            println!("{op:<24}{case}");
        }
        for (kernel, of) in &counts {
            let worse = self.worse(&format!("{op}, {case}, {kernel}"), of);
            match self.wanted.is_everything() {
                true => print_row(kernel, of, &worse),
                false => print_whole(&format!("{op}, {case}: {kernel}"), of, &worse),
            }
        }
    }
}

impl Counting<'_> {
    /// What grew since the last time, in words.
    fn worse(&mut self, row: &str, of: &Counts) -> String {
        let now = compared(of);
        let Some(before) = self.last.insert(row.to_owned(), now) else { return String::new() };
        let grew = |i: &usize| now[*i] as f64 > before[*i] as f64 * (1.0 + TOLERATED / 100.0);
        let said = |i: usize| format!("  WORSE: {} {} -> {}", COMPARED[i], before[i], now[i]);
        (0..COMPARED.len()).filter(grew).map(said).collect()
    }
}

/// Counts and prints the rows that are wanted.
pub fn print(wanted: &Wanted) {
    let simt = match Simt::new(SimtOptions::checked()) {
        Ok(simt) => Arc::new(simt),
        Err(error) => return println!("\nnothing is counted on the host: {error}"),
    };
    println!("\ncounted on the host device, thread by thread; instructions are a warp's (kernels/simt/counts.h)");
    if wanted.is_everything() {
        let [name, mma, matrices, copies, global] = ["op and kernel", "mma", "ldmatrix", "cp.async", "global ld st"];
        let [shared, barriers, read, again] = ["shared ld st", "barriers", "read", "again"];
        println!(
            "{name:<40}{mma:>8}{matrices:>10}{copies:>10}{global:>14}{shared:>14}{barriers:>10}{read:>10}{again:>7}  conflicts"
        );
    }
    let cuda = Arc::new(Cuda::new(simt.clone()));
    let last = std::fs::read(last_file()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut counting = Counting { simt, cuda, wanted, last };
    cases::all(&mut counting, &SMALL);
    if wanted.is_everything() {
        println!(
            "read: bytes of global memory; again: how often each was; conflicts: extra phases of an ldmatrix, a cp.async, another access"
        );
    }
    let text = serde_json::to_vec(&counting.last).expect("numbers by names");
    if let Err(error) = std::fs::write(last_file(), text) {
        println!("the counts are not kept: {error}");
    }
}

/// How often each byte that was read was.
fn again(of: &Counts) -> f64 {
    of.global_read_bytes as f64 / of.distinct_read_bytes.max(1) as f64
}

fn print_row(kernel: &str, of: &Counts, worse: &str) {
    let others = of.shared_loads + of.shared_stores + of.shared_atomics;
    let of_others = of.load_conflicts + of.store_conflicts + of.atomic_conflicts;
    let each = |conflicts: u64, accesses: u64| conflicts as f64 / accesses.max(1) as f64;
    println!(
        "  {kernel:<38}{:>8}{:>10}{:>10}{:>14}{:>14}{:>10}{:>10}{:>6.1}x  {:.2} {:.2} {:.2}{worse}",
        of.products,
        of.matrix_loads,
        of.copies,
        format!("{} {}", of.global_loads, of.global_stores),
        format!("{} {}", of.shared_loads, of.shared_stores),
        of.barriers,
        of.global_read_bytes,
        again(of),
        each(of.matrix_conflicts, of.matrix_loads),
        each(of.copy_conflicts, of.copies),
        each(of_others, others),
    );
}

/// Everything that is known of a kernel in a call.
fn print_whole(row: &str, of: &Counts, worse: &str) {
    println!("\n{row}, {} blocks of {} warps{worse}", of.blocks, of.warps / of.blocks.max(1));
    let each = |count: u64| count as f64 / of.warps.max(1) as f64;
    let instructions = [
        ("mma.sync m16n8k16", of.products),
        ("ldmatrix", of.matrix_loads),
        ("cp.async", of.copies),
        ("global loads", of.global_loads),
        ("global stores", of.global_stores),
        ("global atomics", of.global_atomics),
        ("shared loads", of.shared_loads),
        ("shared stores", of.shared_stores),
        ("shared atomics", of.shared_atomics),
        ("shuffles", of.shuffles),
        ("votes", of.votes),
        ("warp reductions", of.reductions),
        ("__syncwarp", of.warp_barriers),
        ("barriers", of.barriers),
    ];
    println!("  {:<34}{:>14}{:>14}", "instructions", "all", "of a warp");
    for (what, count) in instructions.into_iter().filter(|(_, count)| *count != 0) {
        println!("  {what:<34}{count:>14}{:>14.1}", each(count));
    }
    let bytes = [
        ("global, read", of.global_read_bytes),
        ("  each byte once", of.distinct_read_bytes),
        ("global, written", of.global_written_bytes),
        ("  each byte once", of.distinct_written_bytes),
        ("global, sectors of 32", 32 * of.global_sectors),
        ("shared, read", of.shared_read_bytes),
        ("shared, written", of.shared_written_bytes),
        ("shared, by cp.async", of.copied_bytes),
    ];
    println!("  bytes");
    for (what, count) in bytes.into_iter().filter(|(_, count)| *count != 0) {
        println!("  {what:<34}{count:>14}{:>14.1}", each(count));
    }
    let conflicts = [
        ("ldmatrix", of.matrix_conflicts, of.matrix_loads),
        ("cp.async", of.copy_conflicts, of.copies),
        ("shared loads", of.load_conflicts, of.shared_loads),
        ("shared stores", of.store_conflicts, of.shared_stores),
        ("shared atomics", of.atomic_conflicts, of.shared_atomics),
    ];
    println!("  {:<34}{:>14}{:>14}", "bank conflicts, extra phases", "all", "of each");
    for (what, count, accesses) in conflicts.into_iter().filter(|(.., accesses)| *accesses != 0) {
        println!("  {what:<34}{count:>14}{:>14.2}", count as f64 / accesses as f64);
    }
}
