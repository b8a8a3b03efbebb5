//! The rungs of `kernels/ladder/gemm/`: each gives the bits of the product in use.

use std::sync::Arc;

use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch};
use thyme_engine::cuda::kernels::ladder_gemm::{
    gemm_1_small_tile, gemm_2_vectors, gemm_3_pointers, gemm_4_large_tile, gemm_5_product,
};
use thyme_engine::cuda::kernels::{self, SOURCES};
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::{Buffers, Dtype, Host};

use super::{Random, checked, downloaded, exact_in_bf16, uploaded, values};

/// Name, rows and columns of a block, dynamic shared bytes, what the inner length is a multiple of.
const RUNGS: [(&str, usize, usize, usize, usize); 5] = [
    (
        "ladder_gemm_1_small_tile",
        gemm_1_small_tile::TILE_M,
        gemm_1_small_tile::TILE_N,
        gemm_1_small_tile::SHARED_BYTES,
        1,
    ),
    ("ladder_gemm_2_vectors", gemm_2_vectors::TILE_M, gemm_2_vectors::TILE_N, gemm_2_vectors::SHARED_BYTES, 8),
    ("ladder_gemm_3_pointers", gemm_3_pointers::TILE_M, gemm_3_pointers::TILE_N, gemm_3_pointers::SHARED_BYTES, 8),
    (
        "ladder_gemm_4_large_tile",
        gemm_4_large_tile::TILE_M,
        gemm_4_large_tile::TILE_N,
        gemm_4_large_tile::SHARED_BYTES,
        8,
    ),
    ("ladder_gemm_5_product", gemm_5_product::TILE_M, gemm_5_product::TILE_N, gemm_5_product::SHARED_BYTES, 8),
];

fn units() -> Vec<(String, String)> {
    let is_rung = |path: &str| path.starts_with("ladder/gemm/") && path.ends_with(".cu");
    SOURCES
        .iter()
        .filter(|(path, _)| is_rung(path))
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn every_rung_gives_the_bits_of_the_product_in_use() {
    let names: Vec<String> = units().iter().flat_map(|(_, text)| kernels::names(text)).map(str::to_owned).collect();
    assert_eq!(names, RUNGS.map(|rung| rung.0), "every rung is in the list");
    let device: Arc<dyn Device> =
        Arc::new(Simt::new(SimtOptions { units: units(), ..SimtOptions::checked() }).unwrap());
    let cuda = checked();
    let mut random = Random::new(34);
    for [rows, columns, inner] in [[1, 1, 1], [7, 3, 5], [1, 5, 8], [66, 131, 72], [130, 66, 136]] {
        let (x, w) = (exact_in_bf16(&mut random, rows * inner), exact_in_bf16(&mut random, columns * inner));
        let expected = cuda.linear_forward(
            &cuda.upload(Host::F64(&x), &[rows, inner], Dtype::Activation),
            &cuda.upload(Host::F64(&w), &[columns, inner], Dtype::Bf16),
            None,
        );
        let expected = values(&cuda, &expected);
        let [x, w] = [x, w].map(|values| {
            uploaded(&device, &Vec::from_iter(values.into_iter().map(|x| half::bf16::from_f64(x).to_bits())))
        });
        for (kernel, tile_rows, tile_columns, shared_bytes, multiple) in RUNGS {
            if !inner.is_multiple_of(multiple) {
                continue;
            }
            let y = uploaded(&device, &vec![0u16; rows * columns]);
            let arguments = [
                Argument::Pointer("x", x.span()),
                Argument::Pointer("w", w.span()),
                Argument::Pointer("y", y.span()),
                Argument::I32(rows as i32),
                Argument::I32(columns as i32),
                Argument::I32(inner as i32),
            ];
            let grid = [columns.div_ceil(tile_columns) as u32, rows.div_ceil(tile_rows) as u32, 1];
            let block = [kernels::threads(kernel) as u32, 1, 1];
            device.launch(&Launch { kernel, grid, block, shared_bytes, arguments: &arguments }).unwrap();
            let found = downloaded::<u16>(&device, &y).into_iter().map(|bits| half::bf16::from_bits(bits).to_f64());
            assert_eq!(Vec::from_iter(found), expected, "{kernel} [{rows}, {inner}] to {columns}");
        }
    }
}
