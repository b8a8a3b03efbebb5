//! The edges of a picture, as OpenCV's Canny finds them in its grey and slightly blurred copy.

use image::RgbImage;

use super::buffer;

/// Weights of a pixel's neighbours and of itself, of 256: a Gaussian of 3 pixels with a sigma of 4.
const SIDE_WEIGHT: u32 = 84;
const MIDDLE_WEIGHT: u32 = 88;
/// A gradient above the first is an edge, and above the second where it touches one.
const STRONG: u16 = 200;
const WEAK: u16 = 100;
/// The tangent of 22.5 degrees, of 2^15.
const TANGENT: i32 = 13_573;

/// Which pixels are edges.
pub(super) struct EdgeMap {
    /// Pixels of a row, the margin of one pixel a side included.
    pub stride: usize,
    /// 1 for an edge, 0 for none, rows in order; nothing is on the margin.
    pub marks: Vec<i8>,
}

/// The edges of the picture: `cvtColor(RGB2GRAY)`, `GaussianBlur((3, 3), 4)` and `Canny(100, 200)` of OpenCV 5.0, bit for bit.
pub(super) fn edges(picture: &RgbImage) -> EdgeMap {
    let grey = Grey::of(picture).blurred();
    let stride = grey.width + 2;
    let gradients = grey.gradients();
    let mut marks = vec![0; gradients.len()];
    let mut open = Vec::new();
    for row in 0..grey.height {
        for column in 0..grey.width {
            let at = (row + 1) * stride + column + 1;
            if gradients[at] > WEAK && grey.is_crest(&gradients, (column, row), at) {
                marks[at] = 2;
                if gradients[at] > STRONG {
                    open.push(at);
                }
            }
        }
    }
    while let Some(at) = open.pop() {
        marks[at] = 1;
        let rows = [at - stride, at, at + stride];
        let around = rows.into_iter().flat_map(|middle| middle - 1..=middle + 1);
        for near in around {
            if marks[near] == 2 {
                marks[near] = 1;
                open.push(near);
            }
        }
    }
    // A weak one that touches no edge is none.
    marks.iter_mut().for_each(|mark| *mark &= 1);
    EdgeMap { stride, marks }
}

/// A picture of grey levels, `[height, width]`.
struct Grey {
    levels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Grey {
    /// ITU-R 601-2 luma in 15-bit fixed point, rounded.
    fn of(picture: &RgbImage) -> Self {
        let level = |pixel: &[u8; 3]| {
            let [red, green, blue] = pixel.map(u32::from);
            ((red * 9_798 + green * 19_235 + blue * 3_735 + (1 << 14)) >> 15) as u8
        };
        let levels = buffer::pixels(picture).iter().map(level).collect();
        Self { levels, width: picture.width() as usize, height: picture.height() as usize }
    }

    /// Blurred by the weights along rows, then along columns; beyond the edge the picture is mirrored about its outermost pixels.
    fn blurred(self) -> Self {
        let Self { levels, width, height } = self;
        let mixed = |before: u32, middle: u32, after: u32| SIDE_WEIGHT * (before + after) + MIDDLE_WEIGHT * middle;
        let mut sums = vec![0u16; levels.len()];
        for (row, sums) in levels.chunks_exact(width).zip(sums.chunks_exact_mut(width)) {
            for at in [0, width - 1] {
                let [before, after] = mirrored(at, width).map(|near| u32::from(row[near]));
                sums[at] = mixed(before, row[at].into(), after) as u16;
            }
            let [before, middle, after] = shifted(row);
            for (((sum, before), middle), after) in sums.iter_mut().skip(1).zip(before).zip(middle).zip(after) {
                *sum = mixed((*before).into(), (*middle).into(), (*after).into()) as u16;
            }
        }
        let mut blurred = levels;
        for (at, row) in blurred.chunks_exact_mut(width).enumerate() {
            let [before, after] = mirrored(at, height).map(|near| &sums[near * width..][..width]);
            let middle = &sums[at * width..][..width];
            for (((level, before), middle), after) in row.iter_mut().zip(before).zip(middle).zip(after) {
                let sum = mixed((*before).into(), (*middle).into(), (*after).into());
                *level = ((sum + (1 << 15)) >> 16) as u8;
            }
        }
        Self { levels: blurred, width, height }
    }

    /// Sobel's differences across and down at a pixel; beyond the edge the outermost pixels are repeated.
    fn differences(&self, (column, row): (usize, usize)) -> (i32, i32) {
        let columns = [column.saturating_sub(1), column, (column + 1).min(self.width - 1)];
        let lines = [row.saturating_sub(1), row, (row + 1).min(self.height - 1)];
        let [above, beside, below] =
            lines.map(|line| columns.map(|column| i32::from(self.levels[line * self.width + column])));
        let across = (above[2] + 2 * beside[2] + below[2]) - (above[0] + 2 * beside[0] + below[0]);
        let down = (below[0] + 2 * below[1] + below[2]) - (above[0] + 2 * above[1] + above[2]);
        (across, down)
    }

    /// The sum of both differences without their signs, of each pixel and of a margin of one pixel that has none.
    fn gradients(&self) -> Vec<u16> {
        let mut gradients = vec![0; (self.width + 2) * (self.height + 2)];
        for (row, line) in gradients.chunks_exact_mut(self.width + 2).skip(1).take(self.height).enumerate() {
            for column in [0, self.width - 1] {
                let (across, down) = self.differences((column, row));
                line[column + 1] = (across.abs() + down.abs()) as u16;
            }
            let lines = [row.saturating_sub(1), row, (row + 1).min(self.height - 1)];
            let lines = lines.map(|line| shifted(&self.levels[line * self.width..][..self.width]));
            if let Some(within) = line.get_mut(2..self.width) {
                fill_gradients(within, lines);
            }
        }
        gradients
    }

    /// Whether no neighbour along the gradient, to an eighth of a turn, has a steeper one.
    fn is_crest(&self, gradients: &[u16], place: (usize, usize), at: usize) -> bool {
        let stride = self.width + 2;
        let (across, down) = self.differences(place);
        let (run, rise) = (across.abs(), down.abs() << 15);
        let own = gradients[at];
        if rise < run * TANGENT {
            own > gradients[at - 1] && own >= gradients[at + 1]
        } else if rise > run * TANGENT + (run << 16) {
            own > gradients[at - stride] && own >= gradients[at + stride]
        } else if (across < 0) == (down < 0) {
            own > gradients[at - stride - 1] && own > gradients[at + stride + 1]
        } else {
            own > gradients[at - stride + 1] && own > gradients[at + stride - 1]
        }
    }
}

/// The levels of a row from the first, the second and the third on, as many of each: what stands before, at and after its inner pixels.
fn shifted(row: &[u8]) -> [&[u8]; 3] {
    let inner = row.len().saturating_sub(2);
    [0, 1, 2].map(|offset| row.get(offset..offset + inner).unwrap_or_default())
}

/// The gradients of a row's inner pixels, of the lines above, at and below them.
fn fill_gradients(gradients: &mut [u16], lines: [[&[u8]; 3]; 3]) {
    let [above, beside, below] = lines.map(|line| line.map(|levels| &levels[..gradients.len()]));
    for (at, gradient) in gradients.iter_mut().enumerate() {
        let level = |line: [&[u8]; 3], offset: usize| i16::from(line[offset][at]);
        let column = |offset: usize| level(above, offset) + 2 * level(beside, offset) + level(below, offset);
        let row = |line: [&[u8]; 3]| level(line, 0) + 2 * level(line, 1) + level(line, 2);
        *gradient = (column(2) - column(0)).unsigned_abs() + (row(below) - row(above)).unsigned_abs();
    }
}

/// The indices beside one on an axis of some length.
fn mirrored(at: usize, length: usize) -> [usize; 2] {
    let last = length - 1;
    [if at == 0 { 1.min(last) } else { at - 1 }, if at == last { last.saturating_sub(1) } else { at + 1 }]
}
