//! Pillow's 8-bit bicubic resampling, bit for bit, on interleaved RGB. Used by `image.rs`; knows nothing of patches.
//!
//! Pillow (13.0) resamples each axis in turn and rounds to 8 bits in between. The taps of an output sample are computed in
//! f64, normalised to sum 1 and rounded to 22-bit fixed point. To multiply 16 bits by 16 bits (the product that baseline
//! SIMD has), each tap is split exactly: `tap = high * 2^11 + low`, `0 <= low < 2^11`.

/// Fraction bits of a fixed-point tap.
const PRECISION_BITS: u32 = 22;
/// Bits of the low half of a split tap.
const LOW_BITS: u32 = 11;
/// Taps are padded with zeros to a multiple of this, so that the inner loop has a fixed length.
const LANES: usize = 8;
/// Interleaved columns that the vertical pass sums at once: as many as fit in registers.
const COLUMNS: usize = 16;

/// Resizes interleaved RGB `pixels` (`[height, width, 3]`) to `[new_height, new_width, 3]` exactly as
/// `PIL.Image.resize(..., BICUBIC)` does.
///
/// # Panics
/// If `pixels` does not hold `height * width * 3` bytes or a size is zero: callers validate sizes first.
pub fn resize_bicubic(
    pixels: &[u8],
    (height, width): (usize, usize),
    (new_height, new_width): (usize, usize),
) -> Vec<u8> {
    assert_eq!(pixels.len(), height * width * 3, "RGB buffer of {height}x{width} pixels");
    assert!(height > 0 && width > 0 && new_height > 0 && new_width > 0, "sizes are positive");
    let horizontal = (new_width != width).then(|| Taps::new(width, new_width));
    let vertical = (new_height != height).then(|| Taps::new(height, new_height));
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
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let window = (support.ceil() as usize * 2 + 1).next_multiple_of(LANES);
        let mut taps = Taps {
            window,
            first: Vec::with_capacity(output),
            count: Vec::with_capacity(output),
            high: vec![0; output * window],
            low: vec![0; output * window],
        };
        let mut weights = Vec::with_capacity(window);
        for index in 0..output {
            let center = (index as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            weights.clear();
            weights.extend((first..end).map(|sample| bicubic((sample as f64 - center + 0.5) * (1.0 / stretch))));
            let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
            for (offset, weight) in weights.iter().enumerate() {
                let tap = to_fixed_point(if sum == 0.0 { *weight } else { weight / sum });
                taps.high[index * window + offset] = (tap >> LOW_BITS) as i16;
                taps.low[index * window + offset] = (tap & ((1 << LOW_BITS) - 1)) as i16;
            }
            taps.first.push(first);
            taps.count.push(end - first);
        }
        taps
    }

    fn outputs(&self) -> usize {
        self.first.len()
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

/// Rounds half away from zero; the cast truncates, as C does.
fn to_fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

/// Joins the two half sums, rounds and clips. Wrapping sums are exact: the true total fits 32 bits.
fn to_level(high: i32, low: i32) -> u8 {
    let total = (high << LOW_BITS).wrapping_add(low).wrapping_add(1 << (PRECISION_BITS - 1));
    (total >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Horizontal pass: `[rows, width, 3]` to `[rows, taps.outputs(), 3]`.
fn resize_rows(pixels: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let rows = pixels.len() / (width * 3);
    let mut resized = vec![0; rows * taps.outputs() * 3];
    // One row as three planes of 16 bits, with zeros after each so that a padded window may read on.
    let stride = width + taps.window;
    let mut planes = vec![0i16; 3 * stride];
    let rows = pixels.chunks_exact(width * 3).zip(resized.chunks_exact_mut(taps.outputs() * 3));
    for (row, resized_row) in rows {
        let (red, rest) = planes.split_at_mut(stride);
        let (green, blue) = rest.split_at_mut(stride);
        for (((pixel, red), green), blue) in row.chunks_exact(3).zip(red).zip(green).zip(blue) {
            (*red, *green, *blue) = (i16::from(pixel[0]), i16::from(pixel[1]), i16::from(pixel[2]));
        }
        let splits = taps.high.chunks_exact(taps.window).zip(taps.low.chunks_exact(taps.window));
        for ((pixel, first), (high, low)) in resized_row.chunks_exact_mut(3).zip(&taps.first).zip(splits) {
            for (level, plane) in pixel.iter_mut().zip(planes.chunks_exact(stride)) {
                let samples = &plane[*first..*first + taps.window];
                *level = to_level(dot(samples, high), dot(samples, low));
            }
        }
    }
    resized
}

/// The sum of products, in a shape that compilers turn into multiply-add instructions.
fn dot(a: &[i16], b: &[i16]) -> i32 {
    let mut sums = [0i32; LANES / 2];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let even = i32::from(a[2 * lane]) * i32::from(b[2 * lane]);
            let odd = i32::from(a[2 * lane + 1]) * i32::from(b[2 * lane + 1]);
            *sum = sum.wrapping_add(even + odd);
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

/// Vertical pass: `[height, width, 3]` to `[taps.outputs(), width, 3]`.
fn resize_columns(pixels: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let row_bytes = width * 3;
    let mut resized = vec![0; taps.outputs() * row_bytes];
    for (index, resized_row) in resized.chunks_exact_mut(row_bytes).enumerate() {
        let (first, count) = (taps.first[index], taps.count[index]);
        let rows = &pixels[first * row_bytes..(first + count) * row_bytes];
        let high = &taps.high[index * taps.window..][..count];
        let low = &taps.low[index * taps.window..][..count];
        for (block, levels) in resized_row.chunks_mut(COLUMNS).enumerate() {
            let (mut high_sums, mut low_sums) = ([0i32; COLUMNS], [0i32; COLUMNS]);
            for ((row, high), low) in rows.chunks_exact(row_bytes).zip(high).zip(low) {
                let samples = &row[block * COLUMNS..][..levels.len()];
                for ((sample, high_sum), low_sum) in samples.iter().zip(&mut high_sums).zip(&mut low_sums) {
                    let sample = i16::from(*sample);
                    *high_sum = high_sum.wrapping_add(i32::from(sample) * i32::from(*high));
                    *low_sum = low_sum.wrapping_add(i32::from(sample) * i32::from(*low));
                }
            }
            for ((level, high), low) in levels.iter_mut().zip(high_sums).zip(low_sums) {
                *level = to_level(high, low);
            }
        }
    }
    resized
}
