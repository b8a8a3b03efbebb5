//! Matrix products on simt against the reference, and to the bit where the arithmetic allows it.

use half::bf16;
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, fast, pair, values};

/// Rows, columns, inner: nothing, one, odd sizes, sizes that vectors divide, more than one tile each way.
const SIZES: [[usize; 3]; 6] = [[0, 5, 8], [1, 1, 1], [7, 3, 5], [33, 70, 257], [65, 72, 40], [16, 130, 64]];

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
