//! Planted faults: each kernel of `planted/` is caught, with a report that names it, the thread and the memory; its sound twin runs clean.

use std::sync::Arc;

use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, Memory, Reached};

use super::{downloaded, uploaded};

const UNITS: [(&str, &str); 3] = [
    ("memory.cu", include_str!("planted/memory.cu")),
    ("order.cu", include_str!("planted/order.cu")),
    ("together.cu", include_str!("planted/together.cu")),
];

/// A watched device with the planted kernels, an input of 128 floats and room for 128 results.
struct Bench {
    device: Arc<dyn Device>,
    x: Memory,
    y: Memory,
}

impl Bench {
    fn new() -> Bench {
        let units = UNITS.map(|(path, text)| (path.to_owned(), text.to_owned())).to_vec();
        let device: Arc<dyn Device> = Arc::new(Simt::new(SimtOptions { units, ..SimtOptions::checked() }).unwrap());
        let x = uploaded(&device, &Vec::from_iter((0..128).map(|i| i as f32)));
        let y = uploaded(&device, &[0f32; 128]);
        Bench { device, x, y }
    }

    fn x(&self) -> Argument<'_> {
        Argument::Pointer("x", self.x.span())
    }

    fn y(&self) -> Argument<'_> {
        Argument::Pointer("y", self.y.span())
    }

    /// The report of a kernel, or nothing.
    fn run(
        &self,
        kernel: &str,
        blocks: u32,
        threads: u32,
        shared_bytes: usize,
        arguments: &[Argument<'_>],
    ) -> Option<String> {
        let launch = Launch { kernel, grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes, arguments };
        self.device.launch(&launch).err().map(|error| error.to_string())
    }

    #[track_caller]
    fn expect(&self, kernel: &str, threads: u32, arguments: &[Argument<'_>], parts: &[&str]) {
        let report = self.run(kernel, 1, threads, 0, arguments).unwrap_or_else(|| panic!("{kernel} is not caught"));
        expect_parts(&report, kernel, parts);
    }

    #[track_caller]
    fn expect_sound(&self, kernel: &str, threads: u32, arguments: &[Argument<'_>]) {
        assert_eq!(self.run(kernel, 1, threads, 0, arguments), None);
    }
}

#[track_caller]
fn expect_parts(report: &str, kernel: &str, parts: &[&str]) {
    let begin = format!("{kernel}, block (");
    for part in parts.iter().chain([&begin.as_str(), &", thread (", &".cu:"]) {
        assert!(report.contains(part), "{part:?} is not in the report:\n{report}");
    }
}

#[test]
fn a_removed_syncthreads() {
    let bench = Bench::new();
    let parts = [
        "a race: reads 4 bytes at byte ",
        "of the static shared memory, which thread (",
        "wrote",
        "missing __syncthreads",
    ];
    bench.expect("missing_barrier", 128, &[bench.x(), bench.y()], &parts);
    bench.expect_sound("missing_barrier_sound", 128, &[bench.x(), bench.y()]);
}

#[test]
fn a_tile_overwritten_while_others_read_it() {
    let bench = Bench::new();
    let parts = [
        "a race: writes 4 bytes at byte ",
        "of the static shared memory, which thread (",
        "read",
        "missing __syncthreads",
    ];
    bench.expect("reused_tile", 64, &[bench.x(), bench.y()], &parts);
    bench.expect_sound("reused_tile_sound", 64, &[bench.x(), bench.y()]);
}

#[test]
fn two_threads_that_write_one_place_in_shared_memory() {
    let bench = Bench::new();
    let parts = ["thread (32, 0, 0)", "a race: writes 4 bytes", "which thread (0, 0, 0) wrote"];
    bench.expect("counters", 128, &[bench.y()], &parts);
    bench.expect_sound("counters_sound", 128, &[bench.y()]);
    assert_eq!(downloaded::<i32>(&bench.device, &bench.y)[..32], [4; 32]);
}

#[test]
fn a_missing_syncwarp() {
    let bench = Bench::new();
    bench.expect("within_warp", 32, &[bench.y()], &["a race: reads 4 bytes", "missing __syncwarp"]);
    bench.expect_sound("within_warp_sound", 32, &[bench.y()]);
}

#[test]
fn two_blocks_that_write_one_place() {
    let bench = Bench::new();
    let report = bench.run("between_blocks", 2, 64, 0, &[bench.y()]).expect("it is caught");
    let parts = ["block (1, 0, 0)", "a race: writes 4 bytes at byte 0 of `y`, which block number 0 wrote", "no order"];
    expect_parts(&report, "between_blocks", &parts);
    assert_eq!(bench.run("between_blocks_sound", 2, 64, 0, &[bench.y()]), None);
}

#[test]
fn two_warps_of_a_block_that_race_in_global_memory() {
    let bench = Bench::new();
    bench.expect("within_block", 64, &[bench.y()], &["a race: ", "of `y`, which thread (", "missing __syncthreads"]);
    bench.expect_sound("within_block_sound", 64, &[bench.y()]);
}

#[test]
fn an_index_one_beyond_a_buffer() {
    let bench = Bench::new();
    let parts = ["thread (100, 0, 0)", "reads 4 bytes out of bounds, at byte 400 of `x`, which has 400 bytes"];
    let x = Argument::Pointer("x", bench.x.span().part(0, 400));
    bench.expect("bound", 128, &[x, bench.y(), Argument::I32(100)], &parts);
    bench.expect_sound("bound_sound", 128, &[x, bench.y(), Argument::I32(100)]);
}

#[test]
fn an_index_one_beyond_what_a_table_leads_to() {
    let bench = Bench::new();
    let (x, y) = (bench.x.span().part(0, 400), bench.y.span());
    let table = uploaded(&bench.device, &[x.address(), y.address()]);
    let [x, y] = [("x", x, false), ("y", y, true)].map(|(role, span, is_written)| Reached { role, span, is_written });
    let report = |kernel, reached: &[Reached<'_>]| {
        bench.run(kernel, 1, 128, 0, &[Argument::Table("table", table.span(), reached), Argument::I32(100)])
    };
    let expect = |kernel, reached: &[Reached<'_>], parts: &[&str]| {
        expect_parts(&report(kernel, reached).expect("it is caught"), kernel, parts);
    };
    let parts = ["thread (100, 0, 0)", "reads 4 bytes out of bounds, at byte 400 of `x`, which has 400 bytes"];
    expect("through_table", &[y, x], &parts);
    assert_eq!(report("through_table_sound", &[y, x]), None);

    let read_only = Reached { is_written: false, ..y };
    let parts = ["writes 4 bytes at byte 0 of `y`, which the kernel takes as const"];
    expect("through_table_sound", &[x, read_only], &parts);
    expect("through_table_sound", &[y], &["reads 4 bytes out of bounds"]);
}

#[test]
fn an_index_one_beyond_a_shared_array() {
    let bench = Bench::new();
    bench.expect(
        "bound_static",
        32,
        &[bench.x(), bench.y()],
        &["thread (31, 0, 0)", "out of bounds: index 32 of 'float [32]'"],
    );
    bench.expect_sound("bound_static_sound", 32, &[bench.x(), bench.y()]);
}

#[test]
fn an_index_one_beyond_the_dynamic_shared_memory() {
    let bench = Bench::new();
    let arguments = [bench.x(), bench.y()];
    let report = bench.run("bound_dynamic", 1, 32, 128, &arguments).expect("it is caught");
    let parts = ["thread (31, 0, 0)", "at byte 128 of the dynamic shared memory, which has 128 bytes"];
    expect_parts(&report, "bound_dynamic", &parts);
    assert_eq!(bench.run("bound_dynamic_sound", 1, 32, 128, &arguments), None);
}

#[test]
fn shared_memory_that_nobody_wrote() {
    let bench = Bench::new();
    // The sound twin goes first: what an earlier block left there is no value either.
    bench.expect_sound("unwritten_shared_sound", 32, &[bench.y()]);
    let parts = ["thread (5, 0, 0)", "reads 4 bytes at byte ", "where nobody wrote since the block began"];
    bench.expect("unwritten_shared", 32, &[bench.y()], &parts);
}

#[test]
fn global_memory_that_nobody_wrote() {
    let bench = Bench::new();
    let fresh = Memory::new(&bench.device, 512).unwrap();
    let x = Argument::Pointer("x", fresh.span());
    bench.expect(
        "copies",
        128,
        &[x, bench.y()],
        &["thread (0, 0, 0)", "reads 4 bytes at byte 0 of `x`, where nobody wrote"],
    );
    bench.device.zero(fresh.span()).unwrap();
    bench.expect_sound("copies", 128, &[x, bench.y()]);
    let unwritten = Memory::new(&bench.device, 8).unwrap();
    let error = bench.device.copy_out(&mut [0; 8], unwritten.span()).unwrap_err().to_string();
    assert!(error.contains("reads byte 0, where nobody wrote"), "{error}");
}

#[test]
fn a_write_through_const_and_a_null_pointer() {
    let bench = Bench::new();
    bench.expect(
        "writes_const",
        32,
        &[bench.x()],
        &["writes 4 bytes at byte 0 of `x`, which the kernel takes as const"],
    );
    bench.expect("copies", 32, &[Argument::Null, bench.y()], &["reads 4 bytes through a null pointer"]);
}

#[test]
fn a_misaligned_float4() {
    let bench = Bench::new();
    bench.expect(
        "misaligned",
        32,
        &[bench.x(), bench.y()],
        &["thread (1, 0, 0)", "misaligned: ", "float4", "16 bytes"],
    );
    bench.expect_sound("misaligned_sound", 32, &[bench.x(), bench.y()]);
}

#[test]
fn a_misaligned_row_of_ldmatrix() {
    let bench = Bench::new();
    bench.expect("ldmatrix_pitch", 32, &[bench.y()], &["thread (1, 0, 0)", "ldmatrix takes a row", "16 bytes"]);
    bench.expect_sound("ldmatrix_pitch_sound", 32, &[bench.y()]);
}

#[test]
fn a_copy_read_too_early() {
    let bench = Bench::new();
    let arguments = [bench.x(), bench.y()];
    bench.expect(
        "copy_unwaited",
        32,
        &arguments,
        &["which a cp.async of thread (0, 0, 0) still fills", "cp.async.wait_group"],
    );
    bench.expect("copy_wrong_group", 32, &arguments, &["which a cp.async of thread (", ") still fills"]);
    bench.expect("copy_without_barrier", 32, &arguments, &["reads 4 bytes at byte ", "thread ("]);
    bench.expect_sound("copy_sound", 32, &arguments);
    assert_eq!(downloaded::<f32>(&bench.device, &bench.y)[..32], Vec::from_iter((0..32).map(|i| i as f32)));
}

#[test]
fn a_barrier_that_some_threads_do_not_reach() {
    let bench = Bench::new();
    let count = Argument::I32(100);
    let parts = [
        "__syncthreads is not reached by all: 100 of 128 threads wait for ever",
        "28 have exited, the first thread (100, 0, 0)",
    ];
    bench.expect("early_exit", 128, &[bench.y(), count], &parts);
    bench.expect_sound("early_exit_sound", 128, &[bench.y(), count]);
    bench.expect(
        "two_barriers",
        128,
        &[bench.y()],
        &["barrier 0: divergent: other threads of the block wait at together.cu:"],
    );
}

#[test]
fn a_shuffle_with_lanes_that_are_not_there() {
    let bench = Bench::new();
    let count = Argument::I32(16);
    let parts = ["a shuffle", "wait for ever", "16 have exited, the first thread (16, 0, 0)"];
    bench.expect("left_lanes", 32, &[bench.x(), bench.y(), count], &parts);
    bench.expect_sound("left_lanes_sound", 32, &[bench.x(), bench.y(), count]);
    let parts = ["thread (16, 0, 0)", "a shuffle reads lane 4, which the mask 0xffff0000 does not name"];
    bench.expect("unnamed_lane", 32, &[bench.y()], &parts);
    bench.expect_sound("unnamed_lane_sound", 32, &[bench.y()]);
}

#[test]
fn a_named_barrier_with_a_wrong_count() {
    let bench = Bench::new();
    let parts = ["barrier 1: this thread counts on 96 threads, others on 64"];
    bench.expect("producer_miscounts", 128, &[bench.y()], &parts);
    bench.expect("producer_waits_for_more", 128, &[bench.y()], &["a named barrier is not reached by all"]);
    bench.expect_sound("producer_sound", 128, &[bench.y()]);
}

#[test]
fn a_wrong_fragment_index_shows_in_the_values() {
    let bench = Bench::new();
    // Position-coded: no two elements of a have the same value, and b picks one of them a column.
    let a = Vec::from_iter((0..256).map(|i| half::bf16::from_f32(i as f32).to_bits()));
    let b =
        Vec::from_iter((0..128).map(|i| half::bf16::from_f32(if i / 16 * 2 == i % 16 { 1.0 } else { 0.0 }).to_bits()));
    let expected = Vec::from_iter((0..128).map(|i| (i / 8 * 16 + i % 8 * 2) as f32));
    let (a, b) = (uploaded(&bench.device, &a), uploaded(&bench.device, &b));
    let arguments = [Argument::Pointer("a", a.span()), Argument::Pointer("b", b.span()), bench.y()];
    bench.expect_sound("fragment_sound", 32, &arguments);
    assert_eq!(downloaded::<f32>(&bench.device, &bench.y), expected);
    bench.expect_sound("fragment", 32, &arguments);
    assert_ne!(downloaded::<f32>(&bench.device, &bench.y), expected);
}

#[test]
fn arguments_of_the_wrong_number_or_type() {
    let bench = Bench::new();
    let report = bench.run("copies", 1, 32, 0, &[bench.x()]).expect("it is caught");
    assert!(report.contains("copies takes 2 arguments, not 1"), "{report}");
    let report = bench.run("bound", 1, 32, 0, &[bench.x(), bench.y(), Argument::F32(1.0)]).expect("it is caught");
    assert!(report.contains("argument 2 is of another type"), "{report}");
    let report = bench.run("copies", 1, 33, 0, &[bench.x(), bench.y()]).expect("it is caught");
    assert!(report.contains("a block of 33 threads"), "{report}");
    let report = bench.run("missing", 1, 32, 0, &[]).expect("it is caught");
    assert!(report.contains("there is no kernel missing"), "{report}");
}

#[test]
fn a_fault_does_not_outlive_its_launch() {
    let bench = Bench::new();
    let count = Argument::I32(100);
    for _ in 0..2 {
        assert!(bench.run("early_exit", 1, 128, 0, &[bench.y(), count]).is_some());
        bench.expect_sound("early_exit_sound", 128, &[bench.y(), count]);
    }
    assert_eq!(downloaded::<f32>(&bench.device, &bench.y)[..2], [99.0, 98.0]);
}
