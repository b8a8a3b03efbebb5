//! What the checked device counts: kernels with known instructions, bytes and bank conflicts.

use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::counts::Counts;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, Memory};
use thyme_engine::ops::adamw::{Adamw, AdamwParameter, AdamwStep, Moment};
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::{Buffers, Dtype, Host};

use super::uploaded;
use crate::ops::Random;

/// A device with the kernels of `counts.cu`, 128 floats to read and 128 to write.
struct Bench {
    simt: Arc<Simt>,
    x: Memory,
    y: Memory,
}

impl Bench {
    fn new() -> Bench {
        let units = vec![("counts.cu".to_owned(), include_str!("counts.cu").to_owned())];
        let simt = Arc::new(Simt::new(SimtOptions { units, ..SimtOptions::checked() }).unwrap());
        let device: Arc<dyn Device> = simt.clone();
        let (x, y) = (uploaded(&device, &[1f32; 128]), uploaded(&device, &[0f32; 128]));
        Bench { simt, x, y }
    }

    /// Counts of one launch of a block.
    #[track_caller]
    fn counted(&self, kernel: &str, threads: u32, reads: bool) -> Counts {
        let (x, y) = (Argument::Pointer("x", self.x.span()), Argument::Pointer("y", self.y.span()));
        let arguments = [x, y];
        let arguments = &arguments[usize::from(!reads)..];
        self.simt.count();
        self.simt.launch(&Launch { kernel, grid: [1; 3], block: [threads, 1, 1], shared_bytes: 0, arguments }).unwrap();
        let counts = self.simt.counts();
        assert_eq!(counts.len(), 1);
        counts[kernel]
    }
}

/// One launch of a block of so many warps.
fn block(warps: u64) -> Counts {
    Counts { launches: 1, blocks: 1, warps, ..Counts::default() }
}

#[test]
fn a_stride_of_32_floats_meets_one_bank_and_a_padded_one_all() {
    let bench = Bench::new();
    let expected = Counts {
        warp_barriers: 1,
        shared_loads: 1,
        shared_stores: 1,
        shared_read_bytes: 128,
        shared_written_bytes: 128,
        global_stores: 1,
        global_written_bytes: 128,
        distinct_written_bytes: 128,
        global_sectors: 4,
        ..block(1)
    };
    assert_eq!(bench.counted("strided_padded", 32, false), expected);
    let conflicting = Counts { load_conflicts: 31, store_conflicts: 31, ..expected };
    assert_eq!(bench.counted("strided", 32, false), conflicting);
    assert_eq!(conflicting.conflicts(), 62);
}

#[test]
fn one_word_for_all_and_vectors_in_a_row_have_no_conflicts() {
    let expected = Counts {
        warp_barriers: 1,
        global_loads: 1,
        global_stores: 1,
        global_read_bytes: 512,
        distinct_read_bytes: 512,
        global_written_bytes: 128,
        distinct_written_bytes: 128,
        global_sectors: 16 + 4,
        shared_stores: 1,
        shared_written_bytes: 512,
        shared_loads: 2,
        shared_read_bytes: 128 + 512,
        ..block(1)
    };
    assert_eq!(Bench::new().counted("broadcast_and_vectors", 32, true), expected);
}

#[test]
fn rows_of_64_bytes_conflict_under_ldmatrix_and_cp_async_and_padded_ones_do_not() {
    let bench = Bench::new();
    let expected = Counts {
        warp_barriers: 1,
        copies: 1,
        copied_bytes: 512,
        matrix_loads: 1,
        shared_read_bytes: 512,
        global_read_bytes: 512,
        distinct_read_bytes: 512,
        global_stores: 1,
        global_written_bytes: 128,
        distinct_written_bytes: 128,
        global_sectors: 16 + 4,
        ..block(1)
    };
    assert_eq!(bench.counted("matrices_padded", 32, true), expected);
    // Rows lie alternately in the lower and the upper half of the banks: four phases for eight rows, of each of four matrices.
    let conflicting = Counts { matrix_conflicts: 12, copy_conflicts: 12, ..expected };
    assert_eq!(bench.counted("matrices", 32, true), conflicting);
}

#[test]
fn collectives_barriers_and_atomics() {
    let expected = Counts {
        products: 2 * 2,
        shuffles: 2 * 2,
        votes: 2,
        reductions: 2,
        barriers: 2 * 2,
        // The 33rd counter is thread 32's alone.
        shared_stores: 2,
        shared_written_bytes: 33 * 4 + 2 * 128,
        shared_atomics: 2,
        atomic_conflicts: 31,
        shared_loads: 2,
        shared_read_bytes: 2 * 128 + 2 * 128,
        global_atomics: 2,
        global_read_bytes: 256,
        global_written_bytes: 256,
        distinct_read_bytes: 256,
        distinct_written_bytes: 256,
        global_sectors: 8,
        ..block(2)
    };
    assert_eq!(Bench::new().counted("together", 64, false), expected);
}

#[test]
fn a_loop_counts_as_long_as_its_longest_lane() {
    let counted = Bench::new().counted("uneven", 32, true);
    // Four turns, of 32, 24, 16 and 8 lanes; a load of every other lane.
    assert_eq!(counted.global_loads, 4 + 1);
    assert_eq!(counted.global_read_bytes, (32 + 24 + 16 + 8 + 16) * 4);
    assert_eq!(counted.global_sectors, 4 + 3 + 2 + 1 + 16 + 4);
}

#[test]
fn nothing_is_counted_before_it_is_asked_for() {
    let bench = Bench::new();
    let arguments = [Argument::Pointer("y", bench.y.span())];
    let launch = Launch { kernel: "strided", grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, arguments: &arguments };
    bench.simt.launch(&launch).unwrap();
    assert!(bench.simt.counts().is_empty());
    bench.simt.count();
    bench.simt.launch(&launch).unwrap();
    bench.simt.launch(&launch).unwrap();
    assert_eq!(bench.simt.counts()["strided"].launches, 2);
}

/// What a product has to do is known of its shape, whatever its tiles are.
#[test]
fn a_product_multiplies_what_its_shape_says() {
    let simt = Arc::new(Simt::new(SimtOptions::checked()).unwrap());
    let cuda = Cuda::new(simt.clone());
    let (rows, columns, terms) = (256, 256, 64);
    let mut random = Random::new(7);
    let mut tensor = |shape: &[usize], dtype| {
        let values = random.normals(shape.iter().product());
        cuda.upload(Host::F64(&values), shape, dtype)
    };
    let x = tensor(&[rows, terms], Dtype::Activation);
    let w = tensor(&[columns, terms], Dtype::Bf16);
    simt.count();
    drop(cuda.linear_forward(&x, &w, None));
    let counts = simt.counts();
    let [(_, of)] = Vec::from_iter(&counts)[..] else { panic!("one kernel, not {counts:?}") };
    assert_eq!(of.products as usize, rows / 16 * columns / 8 * terms / 16);
    assert_eq!(of.distinct_read_bytes as usize, 2 * (rows + columns) * terms);
    assert_eq!(of.distinct_written_bytes as usize, 2 * rows * columns);
    assert_eq!(of.matrix_conflicts, 0);
}

/// AdamW finds its tensors by a table of addresses.
#[test]
fn memory_behind_a_table_of_addresses_is_counted_too() {
    let simt = Arc::new(Simt::new(SimtOptions::checked()).unwrap());
    let cuda = Cuda::new(simt.clone());
    let count = 1000;
    let [mut w, mut remainder] = [Dtype::Bf16, Dtype::I16].map(|dtype| cuda.zeros(&[count], dtype));
    let [mut m, mut v] = [(); 2].map(|()| Moment::zeros(&cuda, &[count]));
    let dw = cuda.upload(Host::F32(&vec![1.0; count]), &[count], Dtype::F32);
    let step = AdamwStep { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step: 1, gradient_scale: 1.0 };
    simt.count();
    let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
    cuda.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.0 }], &step);
    let of = simt.counts()["adamw"];
    assert_eq!(of.distinct_written_bytes as usize, (2 + 2 + 4 + 4) * count);
    // The table itself is a few words.
    let table = of.distinct_read_bytes as usize - (2 + 2 + 4 + 4 + 4) * count;
    assert!(table < 256, "{table} bytes of a table");
}
