//! Frames of a film, each of a wall with one plate.

use image::RgbImage;

use super::{Drawn, Sight, hermes};
use crate::tasks::draws::{Draws, mix};
use crate::tasks::needle::paint::{fill, paint_digit, wall};
use crate::tasks::needle::scene::{CELL, CROP_SIDE, Colour, NUMBERS, Split, drawn};

/// How many frames there are.
const FRAMES: usize = 6;
/// Side of a frame in pixels: two cells.
const SIDE: u32 = 2 * CELL;
/// Width and height of a plate.
const PLATE: (u32, u32) = (144, 104);
/// Pixels per dot of a digit.
const DOT: u32 = 5;
/// The wall's brightness differs from film to film by at most this much, of 255.
const TONE: i32 = 4;

#[derive(Clone, Copy)]
struct Frame {
    colour: Colour,
    row: u32,
    column: u32,
    digit: u8,
}

struct Film {
    frames: Vec<Frame>,
    tone: i32,
}

impl Film {
    fn draw(draws: &mut Draws) -> Film {
        let mut colours = Colour::ALL[..8].to_vec();
        draws.shuffle(&mut colours);
        let frame = |colour| Frame {
            colour,
            row: draws.below(2) as u32,
            column: draws.below(2) as u32,
            digit: draws.below(10) as u8,
        };
        let frames = colours.into_iter().take(FRAMES).map(frame).collect();
        Film { frames, tone: draws.around_zero(TONE) }
    }

    fn hash(&self) -> u64 {
        let number = |frame: &Frame| {
            ((frame.colour as u64 * 2 + u64::from(frame.row)) * 2 + u64::from(frame.column)) * 16
                + u64::from(frame.digit)
        };
        self.frames.iter().fold(0, |sum, frame| mix(sum ^ (number(frame) + 1)))
    }
}

impl Frame {
    fn picture(&self, tone: i32) -> RgbImage {
        let mut picture = wall(SIDE, tone);
        let (x, y) = (self.column * CELL + CELL / 2, self.row * CELL + CELL / 2);
        fill(&mut picture, (x - PLATE.0 / 2, y - PLATE.1 / 2), PLATE, self.colour.rgb());
        paint_digit(&mut picture, (x, y), DOT, self.digit);
        picture
    }

    /// What a crop about the plate's middle shows, and that crop.
    fn crop(&self, picture: &RgbImage) -> (Vec<RgbImage>, Sight) {
        let start = |cell: u32| cell * CELL + (CELL - CROP_SIDE) / 2;
        let (left, top) = (start(self.column), start(self.row));
        (vec![image::imageops::crop_imm(picture, left, top, CROP_SIDE, CROP_SIDE).to_image()], self.sight())
    }

    fn sight(&self) -> Sight {
        let text = format!("The plate is {}. The digit is {}.", self.colour.name(), self.digit);
        Sight { text, digit: self.digit }
    }
}

pub(super) fn frames(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let mut scenes = Draws::new(seed, index, 0);
    let film = drawn(split, || Film::draw(&mut scenes), Film::hash);
    let asked = draws.below(FRAMES as u64) as usize;
    let frame = film.frames[asked];
    let (number, colour) = (asked + 1, frame.colour.name());
    let seen: String = (1..=number)
        .zip(&film.frames)
        .map(|(number, frame)| format!("Frame {number}: {}\n", frame.colour.name()))
        .collect();
    let (row, column) = (NUMBERS[frame.row as usize], NUMBERS[frame.column as usize]);
    // A cell's middle is a quarter or three quarters across, and a crop reaches 0.07 to each side.
    let [left, top] = [frame.column, frame.row].map(|cell| 18 + 50 * cell);
    let area = [left, top, left + 14, top + 14].map(|hundredths| f64::from(hundredths) / 100.0);
    let crop = format!("{{\"bbox_2d\": {area:?}, \"target_image\": 2}}");
    let images: Vec<RgbImage> = film.frames.iter().map(|frame| frame.picture(film.tone)).collect();
    Drawn {
        crops: film.frames.iter().zip(&images).map(|(frame, picture)| frame.crop(picture)).collect(),
        images,
        question: format!("What digit is on the {colour} plate?"),
        calls: vec![
            hermes(
                &format!("Let me look closer.\n{seen}The {colour} plate is in frame {number}."),
                [("select_frames", format!("{{\"target_frames\": [{number}]}}"))],
            ),
            hermes(&format!("The plate is in row {row}, column {column}."), [("crop_image_normalized", crop)]),
        ],
        sight: frame.sight(),
    }
}
