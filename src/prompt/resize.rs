//! Pillow's 8-bit resampling (`Resample.c`), bit for bit, on interleaved RGB. Used by `image.rs` and by `image_ops`; knows nothing of patches.
//!
//! Pillow (13.0) resamples each axis in turn and rounds to 8 bits in between. The taps of an output sample are computed in
//! f64, normalised to sum 1 and rounded to 22-bit fixed point. To multiply 16 bits by 16 bits (the product that baseline
//! SIMD has), each tap is split exactly: `tap = high * 2^11 + low`, `0 <= low < 2^11`.

use std::f64::consts::PI;

use super::simd::{self, COLUMNS, LANES};

/// Fraction bits of a fixed-point tap.
const PRECISION_BITS: u32 = 22;
/// Bits of the low half of a split tap.
const LOW_BITS: u32 = 11;

/// A filter of Pillow's `Image.resize` that weighs neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeFilter {
    /// `BILINEAR`: a triangle.
    Bilinear,
    /// `BICUBIC`: the cubic convolution kernel with a = -0.5.
    Bicubic,
    /// `LANCZOS`: a sinc, windowed to three lobes.
    Lanczos,
}

/// Resizes interleaved RGB `pixels` (`[height, width, 3]`) to `[new_height, new_width, 3]` exactly as
/// `PIL.Image.resize(..., BICUBIC)` does.
///
/// # Panics
/// As [`resize`].
pub fn resize_bicubic(pixels: &[u8], size: (usize, usize), new_size: (usize, usize)) -> Vec<u8> {
    resize(pixels, size, new_size, ResizeFilter::Bicubic)
}

/// Resizes interleaved RGB `pixels` (`[height, width, 3]`) to `[new_height, new_width, 3]` exactly as `PIL.Image.resize` does.
///
/// # Panics
/// If `pixels` does not hold `height * width * 3` bytes or a size is zero: callers validate sizes first.
pub fn resize(pixels: &[u8], size: (usize, usize), new_size: (usize, usize), filter: ResizeFilter) -> Vec<u8> {
    resize_part(pixels, size, (size.0 as f32, size.1 as f32), new_size, filter)
}

/// The same of the upper left part of the picture, `part` (height, width) in pixels, as `PIL.Image.resize(..., box=(0, 0, width, height))` does.
///
/// # Panics
/// As [`resize`]; `part` lies within the picture.
pub fn resize_part(
    pixels: &[u8],
    (height, width): (usize, usize),
    part: (f32, f32),
    (new_height, new_width): (usize, usize),
    filter: ResizeFilter,
) -> Vec<u8> {
    assert_eq!(pixels.len(), height * width * 3, "RGB buffer of {height}x{width} pixels");
    assert!(height > 0 && width > 0 && new_height > 0 && new_width > 0, "sizes are positive");
    assert!(part.0 <= height as f32 && part.1 <= width as f32, "the part {part:?} lies within {height}x{width} pixels");
    let is_new = |length: usize, part: f32, new_length: usize| new_length != length || part != new_length as f32;
    let horizontal = is_new(width, part.1, new_width).then(|| Taps::new(width, part.1, new_width, filter));
    let vertical = is_new(height, part.0, new_height).then(|| Taps::new(height, part.0, new_height, filter));
    match (horizontal, vertical) {
        (None, None) => pixels.to_vec(),
        (Some(taps), None) => resize_rows(pixels, width, &taps),
        (None, Some(taps)) => resize_columns(pixels, width, &taps),
        (Some(horizontal), Some(vertical)) if vertical_first((height, width), (new_height, new_width)) => {
            resize_rows(&resize_columns(pixels, width, &vertical), width, &horizontal)
        }
        (Some(horizontal), Some(vertical)) => {
            resize_columns(&resize_rows(pixels, width, &horizontal), new_width, &vertical)
        }
    }
}

/// Whether Pillow (since 13.0) takes the vertical pass first: when the height loses rows, and more than twice as many as the
/// width loses columns. The rounding between the passes makes the order visible.
fn vertical_first((height, width): (usize, usize), (new_height, new_width): (usize, usize)) -> bool {
    let (rows_lost, columns_lost) = (height as i64 - new_height as i64, width as i64 - new_width as i64);
    rows_lost > 0 && rows_lost > 2 * columns_lost
}

/// The fixed-point taps of one axis: output sample `i` is the sum over `j` of `tap[i][j] * input[first[i] + j]`.
struct Taps {
    /// Taps of each output sample, zero-padded to a multiple of [`LANES`].
    window: usize,
    /// First input sample of each output sample.
    first: Vec<usize>,
    /// Taps of each output sample that are not padding.
    count: Vec<usize>,
    /// `tap >> LOW_BITS`, `[outputs, window]`.
    high: Vec<i16>,
    /// `tap & (2^LOW_BITS - 1)`, `[outputs, window]`.
    low: Vec<i16>,
}

impl Taps {
    /// Of an axis of `input` samples, the first `part` of which become `output` samples.
    fn new(input: usize, part: f32, output: usize, filter: ResizeFilter) -> Self {
        let scale = f64::from(part) / output as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let center = |index: usize| (index as f64 + 0.5) * scale;
        let range = |index: usize| {
            let first = (center(index) - support + 0.5).max(0.0) as usize;
            first..((center(index) + support + 0.5) as usize).min(input)
        };
        let window = (0..output).map(|index| range(index).len()).max().unwrap_or(0).next_multiple_of(LANES);
        let mut taps = Taps {
            window,
            first: (0..output).map(|index| range(index).start).collect(),
            count: (0..output).map(|index| range(index).len()).collect(),
            high: vec![0; output * window],
            low: vec![0; output * window],
        };
        for index in 0..output {
            let weight = |sample: usize| filter.weight((sample as f64 - center(index) + 0.5) * (1.0 / stretch));
            let sum = range(index).map(weight).fold(0.0, |sum, weight| sum + weight);
            for (offset, sample) in range(index).enumerate() {
                let weight = weight(sample);
                let tap = to_fixed_point(if sum == 0.0 { weight } else { weight / sum });
                taps.high[index * window + offset] = (tap >> LOW_BITS) as i16;
                taps.low[index * window + offset] = (tap & ((1 << LOW_BITS) - 1)) as i16;
            }
        }
        taps
    }

    fn outputs(&self) -> usize {
        self.first.len()
    }
}

impl ResizeFilter {
    /// How far it reaches to each side, in samples, where it does not shrink.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The weight of a sample at the distance `x`, not yet normalised.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => bicubic(x),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// The cubic convolution kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// sin(pi x) / (pi x).
fn sinc(x: f64) -> f64 {
    let angle = x * PI;
    if angle == 0.0 { 1.0 } else { angle.sin() / angle }
}

/// Rounds half away from zero; the cast truncates, as C does.
fn to_fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

/// Joins the two half sums. Wrapping sums are exact: the true total fits 32 bits.
fn join(high: i32, low: i32) -> i32 {
    (high << LOW_BITS).wrapping_add(low)
}

/// Rounds a fixed-point total and clips it.
fn to_level(total: i32) -> u8 {
    (total.wrapping_add(1 << (PRECISION_BITS - 1)) >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Horizontal pass: `[rows, width, 3]` to `[rows, taps.outputs(), 3]`.
fn resize_rows(pixels: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let rows = pixels.len() / (width * 3);
    let mut resized = vec![0; rows * taps.outputs() * 3];
    // One row as three planes of 16 bits, with zeros after each so that a padded window may read on.
    let stride = width + taps.window;
    let mut planes = vec![0i16; 3 * stride];
    let (high, _) = taps.high.as_chunks::<LANES>();
    let (low, _) = taps.low.as_chunks::<LANES>();
    let chunks = taps.window / LANES;
    let rows = pixels.chunks_exact(width * 3).zip(resized.chunks_exact_mut(taps.outputs() * 3));
    for (row, resized_row) in rows {
        split_channels(row, &mut planes, stride);
        let splits = high.chunks_exact(chunks).zip(low.chunks_exact(chunks));
        let (resized_row, _) = resized_row.as_chunks_mut::<3>();
        for ((pixel, &first), (high, low)) in resized_row.iter_mut().zip(&taps.first).zip(splits) {
            for (level, plane) in pixel.iter_mut().zip(planes.chunks_exact(stride)) {
                let (samples, _) = plane[first..][..taps.window].as_chunks::<LANES>();
                *level = to_level(dot(samples, high, low));
            }
        }
    }
    resized
}

/// Interleaved RGB to three planes that start at multiples of `stride`.
fn split_channels(row: &[u8], planes: &mut [i16], stride: usize) {
    let (pixels, _) = row.as_chunks::<3>();
    let (red, rest) = planes.split_at_mut(stride);
    let (green, blue) = rest.split_at_mut(stride);
    for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        [*red, *green, *blue] = pixel.map(i16::from);
    }
}

/// The sum of samples times split taps, joined.
fn dot(samples: &[[i16; LANES]], high: &[[i16; LANES]], low: &[[i16; LANES]]) -> i32 {
    let (mut high_sums, mut low_sums) = ([0; LANES / 2], [0; LANES / 2]);
    for ((samples, high), low) in samples.iter().zip(high).zip(low) {
        high_sums = simd::multiply_add(high_sums, *samples, *high);
        low_sums = simd::multiply_add(low_sums, *samples, *low);
    }
    high_sums.iter().zip(low_sums).fold(0i32, |total, (high, low)| total.wrapping_add(join(*high, low)))
}

/// Vertical pass: `[height, width, 3]` to `[taps.outputs(), width, 3]`.
fn resize_columns(pixels: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let row_bytes = width * 3;
    let mut resized = vec![0; taps.outputs() * row_bytes];
    // Padded, so that a block of columns may read on after the last row.
    let padded = [pixels, &[0; COLUMNS]].concat();
    for (index, resized_row) in resized.chunks_exact_mut(row_bytes).enumerate() {
        let first = taps.first[index] * row_bytes;
        let (high, _) = taps.high[index * taps.window..][..taps.count[index]].as_chunks::<2>();
        let (low, _) = taps.low[index * taps.window..][..taps.count[index]].as_chunks::<2>();
        let odd = taps.count[index] % 2 == 1;
        let last = index * taps.window + taps.count[index] - 1;
        for (block, levels) in resized_row.chunks_mut(COLUMNS).enumerate() {
            let start = first + block * COLUMNS;
            let samples = |row: usize| column_block(&padded[start + row * row_bytes..]);
            let (mut high_sums, mut low_sums) = ([[0; 4]; COLUMNS / 4], [[0; 4]; COLUMNS / 4]);
            for (pair, (high, low)) in high.iter().zip(low).enumerate() {
                let paired = simd::interleave(samples(2 * pair), samples(2 * pair + 1));
                add_columns(&mut high_sums, &paired, *high);
                add_columns(&mut low_sums, &paired, *low);
            }
            if odd {
                let paired = simd::interleave(samples(taps.count[index] - 1), [0; COLUMNS]);
                add_columns(&mut high_sums, &paired, [taps.high[last], 0]);
                add_columns(&mut low_sums, &paired, [taps.low[last], 0]);
            }
            let sums = high_sums.as_flattened().iter().zip(low_sums.as_flattened());
            for (level, (high, low)) in levels.iter_mut().zip(sums) {
                *level = to_level(join(*high, *low));
            }
        }
    }
    resized
}

/// The next [`COLUMNS`] bytes; callers pad what they read from.
fn column_block(bytes: &[u8]) -> [u8; COLUMNS] {
    let (blocks, _) = bytes.as_chunks::<COLUMNS>();
    blocks[0]
}

/// Adds two rows of columns, given in pairs, times their two taps.
fn add_columns(sums: &mut [[i32; 4]; COLUMNS / 4], paired: &[[i16; LANES]; COLUMNS / 4], taps: [i16; 2]) {
    let taps = [taps; LANES / 2];
    for (sums, paired) in sums.iter_mut().zip(paired) {
        *sums = simd::multiply_add(*sums, *paired, bytemuck::cast(taps));
    }
}
