//! A chart of three bars, whose scale has four digits at uneven steps.

use image::RgbImage;
use serde_json::json;

use super::{Drawn, Sight, planned};
use crate::tasks::draws::{Draws, mix};
use crate::tasks::needle::paint::{fill, paint_digit, wall};
use crate::tasks::needle::scene::{CELL, CROP_SIDE, Colour, GRID, NUMBERS, PICTURE_SIDE, Split, drawn};

/// Width of a bar in pixels.
const BAR_WIDTH: u32 = 120;
/// Side of the label of a step of the scale.
const LABEL_SIDE: u32 = 72;
/// Pixels per dot of a digit.
const DOT: u32 = 5;
/// How far a bar ends below the middle of its label, in pixels: a line there goes beneath the digit.
const BELOW: u32 = 26;
/// Labels of a lesson in reading.
const LABELS: u64 = 6;
/// The wall's brightness differs from chart to chart by at most this much, of 255.
const TONE: i32 = 4;

struct Chart {
    /// Digits of the scale from the top down, each smaller than the one before.
    scale: [u8; GRID as usize],
    /// Colours of the bars from the left, and the row that each reaches.
    bars: [(Colour, u32); 3],
    tone: i32,
}

impl Chart {
    fn draw(draws: &mut Draws) -> Chart {
        let mut digits: Vec<u8> = (0..10).collect();
        draws.shuffle(&mut digits);
        let mut scale = [digits[0], digits[1], digits[2], digits[3]];
        scale.sort_unstable_by(|a, b| b.cmp(a));
        let mut colours = Colour::ALL[..8].to_vec();
        draws.shuffle(&mut colours);
        let mut bar = |place: usize| (colours[place], draws.below(u64::from(GRID)) as u32);
        Chart { scale, bars: [bar(0), bar(1), bar(2)], tone: draws.around_zero(TONE) }
    }

    fn hash(&self) -> u64 {
        let scale = self.scale.iter().fold(0, |sum, digit| sum * 16 + u64::from(*digit));
        self.bars.iter().fold(mix(scale + 1), |sum, (colour, row)| mix(sum ^ ((*colour as u64) << 8 | u64::from(*row))))
    }

    fn picture(&self) -> RgbImage {
        let mut picture = wall(PICTURE_SIDE, self.tone);
        for (row, digit) in (0..).zip(self.scale) {
            let start = (CELL - LABEL_SIDE) / 2;
            fill(&mut picture, (start, row * CELL + start), (LABEL_SIDE, LABEL_SIDE), Colour::White.rgb());
            paint_digit(&mut picture, (CELL / 2, row * CELL + CELL / 2), DOT, digit);
        }
        for (column, (colour, row)) in (1..).zip(self.bars) {
            let top = end_of_bar(row);
            let left = column * CELL + (CELL - BAR_WIDTH) / 2;
            fill(&mut picture, (left, top), (BAR_WIDTH, PICTURE_SIDE - top), colour.rgb());
        }
        picture
    }
}

/// Where a bar that reaches a row ends, in pixels from the top.
fn end_of_bar(row: u32) -> u32 {
    row * CELL + CELL / 2 + BELOW
}

pub(super) fn chart(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let mut scenes = Draws::new(seed, index, 0);
    let chart = drawn(split, || Chart::draw(&mut scenes), Chart::hash);
    let asked = draws.below(chart.bars.len() as u64) as usize;
    let (colour, row) = chart.bars[asked];
    let digit = chart.scale[row as usize];
    let name = |row: u32| NUMBERS[row as usize];
    let bars: String = NUMBERS
        .iter()
        .zip(&chart.bars[..=asked])
        .map(|(number, (colour, row))| format!("Bar {number}: {} row {}\n", colour.name(), name(*row)))
        .collect();
    let thought = format!("Let me look closer.\n{bars}The {} bar ends in row {}.", colour.name(), name(row));
    let line = json!({"image": "img_1", "param": format!("y={:.1}", f64::from(100 * end_of_bar(row)) / f64::from(PICTURE_SIDE))});
    let (left, top) = ((CELL - CROP_SIDE) / 2, row * CELL + (CELL - CROP_SIDE) / 2);
    let area = [left, top, left + CROP_SIDE, top + CROP_SIDE];
    let crop = json!({"image": "img_2", "param": format!("{area:?}")});
    let label = |digit: u8| {
        let mut label = RgbImage::from_pixel(CROP_SIDE, CROP_SIDE, Colour::White.rgb());
        paint_digit(&mut label, (CROP_SIDE / 2, CROP_SIDE / 2), DOT, digit);
        (vec![label], sight(digit))
    };
    Drawn {
        images: vec![chart.picture()],
        crops: (0..LABELS).map(|_| label(draws.below(10) as u8)).collect(),
        question: format!("What is the value of the {} bar?", colour.name()),
        calls: vec![
            planned(&thought, "DrawHorizontalLineByY", &line),
            planned(&format!("The line meets the scale in row {}.", name(row)), "Crop", &crop),
        ],
        sight: sight(digit),
    }
}

fn sight(digit: u8) -> Sight {
    Sight { text: format!("The digit is {digit}."), digit }
}
