//! Matrix products on simt against the reference, and to the bit where the arithmetic allows it.

use std::sync::Arc;

use half::bf16;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, Memory};
use thyme_engine::cuda::kernels::{self, common::product};
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, downloaded, exact_in_bf16, expect_close, fast, pair, uploaded, values};

/// Rows, columns, inner: nothing, one, odd sizes, sizes that vectors divide, one less and one more than tiles, than a step and than vectors,
/// more than one tile each way.
const SIZES: [[usize; 3]; 13] = [
    [0, 5, 8],
    [1, 1, 1],
    [7, 3, 5],
    [33, 70, 257],
    [65, 72, 40],
    [16, 130, 64],
    [1, 8, 8],
    [63, 32, 72],
    [17, 31, 16],
    [64, 129, 63],
    [127, 136, 128],
    [129, 128, 136],
    [200, 33, 65],
];

/// The tiles of `kernels/common/product.cuh`: the end of their kernels' names, rows, columns, stages.
const TILES: [(&str, usize, usize, usize); 6] = [
    ("large", product::LARGE_M, product::LARGE_N, product::LARGE_STAGES),
    ("wide", product::WIDE_M, product::WIDE_N, product::WIDE_STAGES),
    ("few_64", product::FEW_64_M, product::FEW_N, product::FEW_64_STAGES),
    ("few_32", product::FEW_32_M, product::FEW_N, product::FEW_32_STAGES),
    ("few_16", product::FEW_16_M, product::FEW_N, product::FEW_16_STAGES),
    ("unaligned", product::UNALIGNED_M, product::UNALIGNED_N, product::UNALIGNED_STAGES),
];

/// `linear_forward` of given operands on the tile at this place of [`TILES`], without a bias; bits of bf16.
struct Forward {
    device: Arc<dyn Device>,
    x: Vec<u16>,
    w: Memory,
    columns: usize,
    inner: usize,
}

impl Forward {
    fn new(device: &Arc<dyn Device>, seed: u64, [rows, columns, inner]: [usize; 3]) -> Forward {
        let mut random = Random::new(seed);
        let mut bits =
            |count| -> Vec<u16> { random.normals(count).into_iter().map(|x| bf16::from_f64(x).to_bits()).collect() };
        let (x, w) = (bits(rows * inner), bits(columns * inner));
        Forward { device: device.clone(), w: uploaded(device, &w), x, columns, inner }
    }

    fn run(&self, rows: &[usize], (tile, tile_rows, tile_columns, stages): (&str, usize, usize, usize)) -> Vec<u16> {
        let gathered: Vec<u16> =
            rows.iter().flat_map(|row| self.x[row * self.inner..][..self.inner].to_vec()).collect();
        let (x, y) =
            (uploaded(&self.device, &gathered), uploaded(&self.device, &vec![0u16; rows.len() * self.columns]));
        let sizes = [rows.len(), self.columns, self.inner].map(|size| Argument::I32(size as i32));
        let tensors = [("x", &x), ("w", &self.w)].map(|(name, of)| Argument::Pointer(name, of.span()));
        let arguments = [&tensors[..], &[Argument::Null, Argument::Pointer("y", y.span())], &sizes].concat();
        let kernel = &format!("linear_forward_{tile}");
        let launch = Launch {
            kernel,
            grid: [self.columns.div_ceil(tile_columns) as u32, rows.len().div_ceil(tile_rows) as u32, 1],
            block: [kernels::threads(kernel) as u32, 1, 1],
            shared_bytes: product::product_bytes(tile_rows, tile_columns, stages),
            arguments: &arguments,
        };
        self.device.launch(&launch).unwrap();
        downloaded(&self.device, &y)
    }
}

#[test]
fn linear_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(30);
    for ([rows, columns, inner], bias) in SIZES.into_iter().flat_map(|size| [(size, false), (size, true)]) {
        let what = format!("linear [{rows}, {inner}] to {columns}, bias {bias}");
        let (x, rx) = pair(&cuda, &exact_in_bf16(&mut random, rows * inner), &[rows, inner], Dtype::Activation);
        let (w, rw) = pair(&cuda, &exact_in_bf16(&mut random, columns * inner), &[columns, inner], Dtype::Bf16);
        let (b, rb) = pair(&cuda, &exact_in_bf16(&mut random, columns), &[columns], Dtype::Bf16);
        let (dy, rdy) = pair(&cuda, &exact_in_bf16(&mut random, rows * columns), &[rows, columns], Dtype::Activation);
        let (mut dw, mut rdw) = pair(&cuda, &vec![0.25; columns * inner], &[columns, inner], Dtype::F32);
        let (mut db, mut rdb) = pair(&cuda, &vec![0.25; columns], &[columns], Dtype::F32);

        let y = cuda.linear_forward(&x, &w, bias.then_some(&b));
        expect_close(&format!("{what}: y"), &cuda, &y, &Reference.linear_forward(&rx, &rw, bias.then_some(&rb)), inner);
        let dx = cuda.linear_backward_input(&dy, &w);
        expect_close(&format!("{what}: dx"), &cuda, &dx, &Reference.linear_backward_input(&rdy, &rw), columns);
        cuda.linear_backward_weight(&dy, &x, &mut dw, bias.then_some(&mut db));
        Reference.linear_backward_weight(&rdy, &rx, &mut rdw, bias.then_some(&mut rdb));
        expect_close(&format!("{what}: dw"), &cuda, &dw, &rdw, rows);
        expect_close(&format!("{what}: db"), &cuda, &db, &rdb, rows);
    }
}

/// Products and sums of small whole numbers round nowhere, so that the result is exact but for the rounding to bf16 at its end.
#[test]
fn products_of_whole_numbers_are_exact() {
    let cuda = fast();
    let mut random = Random::new(31);
    let mut whole = |count: usize| -> Vec<f64> { (0..count).map(|_| random.below(9) as f64 - 4.0).collect() };
    for [rows, columns, inner] in SIZES {
        let (x, rx) = pair(&cuda, &whole(rows * inner), &[rows, inner], Dtype::Activation);
        let (w, rw) = pair(&cuda, &whole(columns * inner), &[columns, inner], Dtype::Bf16);
        let (b, rb) = pair(&cuda, &whole(columns), &[columns], Dtype::Bf16);
        let (dy, rdy) = pair(&cuda, &whole(rows * columns), &[rows, columns], Dtype::Activation);
        let (mut dw, mut rdw) = pair(&cuda, &vec![1.0; columns * inner], &[columns, inner], Dtype::F32);
        let (mut db, mut rdb) = pair(&cuda, &vec![1.0; columns], &[columns], Dtype::F32);

        let rounded =
            |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|x| bf16::from_f64(x).to_f64()).collect() };
        let y = values(&cuda, &cuda.linear_forward(&x, &w, Some(&b)));
        assert_eq!(y, rounded(values(&Reference, &Reference.linear_forward(&rx, &rw, Some(&rb)))));
        let dx = values(&cuda, &cuda.linear_backward_input(&dy, &w));
        assert_eq!(dx, rounded(values(&Reference, &Reference.linear_backward_input(&rdy, &rw))));
        cuda.linear_backward_weight(&dy, &x, &mut dw, Some(&mut db));
        Reference.linear_backward_weight(&rdy, &rx, &mut rdw, Some(&mut rdb));
        assert_eq!(values(&cuda, &dw), values(&Reference, &rdw));
        assert_eq!(values(&cuda, &db), values(&Reference, &rdb));
    }
}

/// More tiles of rows than blocks go down at a time, and a rest: every tile of the result is somebody's. Whole numbers are exact.
#[test]
fn tall_results_are_covered() {
    let cuda = fast();
    let (rows, inner) = (64 * 35 + 3, 4);
    let mut random = Random::new(33);
    let mut whole = |count: usize| -> Vec<f64> { (0..count).map(|_| random.below(9) as f64 - 4.0).collect() };
    for columns in [1, 70, 200] {
        let (x, rx) = pair(&cuda, &whole(rows * inner), &[rows, inner], Dtype::Activation);
        let (w, rw) = pair(&cuda, &whole(columns * inner), &[columns, inner], Dtype::Bf16);
        let y = values(&cuda, &cuda.linear_forward(&x, &w, None));
        assert_eq!(y, values(&Reference, &Reference.linear_forward(&rx, &rw, None)), "{columns} columns");
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    const ROWS: usize = 130;
    let cuda = fast();
    for (inner, columns) in [(37, 5), (64, 64), (300, 131)] {
        let mut random = Random::new(32);
        let x = exact_in_bf16(&mut random, ROWS * inner);
        let w = cuda.upload(Host::F64(&exact_in_bf16(&mut random, columns * inner)), &[columns, inner], Dtype::Bf16);
        let b = cuda.upload(Host::F64(&exact_in_bf16(&mut random, columns)), &[columns], Dtype::Bf16);
        let product = |rows: &[usize]| {
            let gathered: Vec<f64> = rows.iter().flat_map(|row| x[row * inner..][..inner].to_vec()).collect();
            let x = cuda.upload(Host::F64(&gathered), &[rows.len(), inner], Dtype::Activation);
            values(&cuda, &cuda.linear_forward(&x, &w, Some(&b)))
        };
        let all = product(&Vec::from_iter(0..ROWS));
        for count in [1, 2, 7, 16, 17, 64, 65] {
            let rows = random.some(ROWS, count);
            for (row, found) in rows.iter().zip(product(&rows).chunks(columns)) {
                assert_eq!(
                    found,
                    &all[row * columns..][..columns],
                    "row {row} in a call of {count}, {inner} to {columns}"
                );
            }
        }
    }
}

/// A launch chooses the tile by the number of rows, so that no tile may have bits of its own. At the edges of each: rows, columns and terms.
#[test]
fn every_tile_gives_the_same_bits() {
    let device: Arc<dyn Device> = Arc::new(Simt::new(SimtOptions::checked()).unwrap());
    for [rows, columns, inner] in [
        [1, 1, 8],
        [7, 31, 16],
        [17, 33, 40],
        [33, 32, 64],
        [63, 129, 72],
        [65, 127, 136],
        [129, 128, 192],
        [200, 65, 24],
    ] {
        let forward = Forward::new(&device, 35, [rows, columns, inner]);
        let rows = Vec::from_iter(0..rows);
        let expected = forward.run(&rows, TILES[0]);
        for tile in &TILES[1..] {
            let found = forward.run(&rows, *tile);
            assert!(found == expected, "[{}, {inner}] to {columns} by the tile {}", rows.len(), tile.0);
        }
    }
}

/// The longest sum of a model of 7 B parameters, in every company and by every tile.
#[test]
fn a_row_of_a_long_sum_has_the_same_bits_in_any_company() {
    let device: Arc<dyn Device> = Arc::new(Simt::new(SimtOptions::fast()).unwrap());
    let forward = Forward::new(&device, 36, [130, 8, 18_944]);
    let all = forward.run(&Vec::from_iter(0..130), TILES[2]);
    for (tile, rows) in [(0, 60..130), (1, 3..10), (2, 64..129), (3, 40..66), (4, 129..130), (4, 11..18), (5, 0..1)] {
        let expected = &all[rows.start * forward.columns..rows.end * forward.columns];
        assert!(forward.run(&Vec::from_iter(rows.clone()), TILES[tile]) == expected, "{rows:?} by {:?}", TILES[tile]);
    }
}

/// As many columns as make the launch choose among all tiles.
#[test]
fn a_row_of_a_wide_result_has_the_same_bits_in_any_company() {
    const ROWS: usize = 66;
    let (columns, inner) = (12_296, 24);
    let cuda = fast();
    let mut random = Random::new(37);
    let x = exact_in_bf16(&mut random, ROWS * inner);
    let w = cuda.upload(Host::F64(&exact_in_bf16(&mut random, columns * inner)), &[columns, inner], Dtype::Bf16);
    let product = |rows: &[usize]| {
        let gathered: Vec<f64> = rows.iter().flat_map(|row| x[row * inner..][..inner].to_vec()).collect();
        let x = cuda.upload(Host::F64(&gathered), &[rows.len(), inner], Dtype::Activation);
        values(&cuda, &cuda.linear_forward(&x, &w, None))
    };
    let all = product(&Vec::from_iter(0..ROWS));
    for count in [1, 7, 17, 65] {
        let rows = random.some(ROWS, count);
        for (row, found) in rows.iter().zip(product(&rows).chunks(columns)) {
            assert!(found == &all[row * columns..][..columns], "row {row} in a call of {count}");
        }
    }
}
