//! A chart of three bars, whose scale has four digits at uneven steps.

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

    fn picture(&self) -> image::RgbImage {
        let mut picture = wall(PICTURE_SIDE, self.tone);
        let middle = |row: u32| row * CELL + CELL / 2;
        for (row, digit) in (0..).zip(self.scale) {
            let start = (CELL - LABEL_SIDE) / 2;
            fill(&mut picture, (start, row * CELL + start), (LABEL_SIDE, LABEL_SIDE), Colour::White.rgb());
            paint_digit(&mut picture, (CELL / 2, middle(row)), DOT, digit);
        }
        for (column, (colour, row)) in (1..).zip(self.bars) {
            let at = (column * CELL + (CELL - BAR_WIDTH) / 2, middle(row));
            fill(&mut picture, at, (BAR_WIDTH, PICTURE_SIDE - middle(row)), colour.rgb());
        }
        picture
    }
}

pub(super) fn chart(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let mut scenes = Draws::new(seed, index, 0);
    let chart = drawn(split, || Chart::draw(&mut scenes), Chart::hash);
    let asked = draws.below(chart.bars.len() as u64) as usize;
    let (colour, row) = chart.bars[asked];
    let digit = chart.scale[row as usize];
    let name = |row: u32| NUMBERS[row as usize];
    let bars: String =
        chart.bars[..=asked].iter().map(|(colour, row)| format!(" {} {}", colour.name(), name(*row))).collect();
    let thought = format!("Let me look closer. The bars end in row:{bars}.");
    let line = json!({"image": "img_1", "param": format!("y={}", f64::from(row * 100 + 50) / f64::from(GRID))});
    let start = |row: u32| ((CELL - CROP_SIDE) / 2, row * CELL + (CELL - CROP_SIDE) / 2);
    let (left, top) = start(row);
    let area = [left, top, left + CROP_SIDE, top + CROP_SIDE];
    let crop = json!({"image": "img_2", "param": format!("{area:?}")});
    let picture = chart.picture();
    let label = |(row, digit): (u32, u8)| {
        let (left, top) = start(row);
        let label = image::imageops::crop_imm(&picture, left, top, CROP_SIDE, CROP_SIDE).to_image();
        (vec![label], sight(digit))
    };
    Drawn {
        crops: (0..).zip(chart.scale).map(label).collect(),
        images: vec![picture],
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
