//! What a picture shows: plates with digits in the cells of a grid, drawn from a seed and painted.

use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use crate::tasks::draws::{Draws, mix};
use crate::tasks::font::{self, GLYPH_HEIGHT, GLYPH_WIDTH};

/// Side of the picture in pixels.
pub const PICTURE_SIDE: u32 = 896;
/// Cells along a side of the grid.
pub const GRID: u32 = 4;
/// Side of a cell in pixels.
pub const CELL: u32 = PICTURE_SIDE / GRID;
/// Side of the crop that a look takes around a cell's centre, in pixels.
pub const CROP_SIDE: u32 = 64;

const PLATE_WIDTH: u32 = 144;
const PLATE_HEIGHT: u32 = 104;
/// A plate's centre is at most this many pixels off its cell's, each way.
const JITTER: i32 = 4;
/// Pixels per dot of a digit: the digit is 35 pixels tall and 25 wide.
const DOT: u32 = 5;
/// How many plates a picture has, one of these being drawn.
const PLATE_COUNTS: [usize; 4] = [6, 7, 7, 8];
/// The wall's brightness differs from picture to picture by at most this much, of 255.
const TONE: i32 = 4;
/// One scene in this many is held out.
const HELD_OUT_SHARE: u64 = 8;

/// Scenes to train on, or scenes to be examined on.
///
/// The two are disjoint by construction: one scene in eight, by a hash of its plates (colours, cells and digits), is held out,
/// and each split draws until its kind of scene comes. No seed can make a held-out scene appear in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For pretraining, demonstrations and reinforcement learning.
    Train,
    /// For evaluation only.
    HeldOut,
}

/// The eight colours of plates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Cyan,
    Pink,
    White,
    Orange,
}

impl Colour {
    /// All eight colours, in the order above.
    pub const ALL: [Colour; 8] = [
        Colour::Red,
        Colour::Green,
        Colour::Blue,
        Colour::Yellow,
        Colour::Cyan,
        Colour::Pink,
        Colour::White,
        Colour::Orange,
    ];

    /// The colour's English name.
    pub fn name(self) -> &'static str {
        match self {
            Colour::Red => "red",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Yellow => "yellow",
            Colour::Cyan => "cyan",
            Colour::Pink => "pink",
            Colour::White => "white",
            Colour::Orange => "orange",
        }
    }

    fn rgb(self) -> Rgb<u8> {
        Rgb(match self {
            Colour::Red => [240, 50, 50],
            Colour::Green => [50, 200, 70],
            Colour::Blue => [60, 110, 255],
            Colour::Yellow => [245, 230, 40],
            Colour::Cyan => [40, 220, 230],
            Colour::Pink => [250, 110, 220],
            Colour::White => [245, 245, 245],
            Colour::Orange => [255, 150, 30],
        })
    }
}

/// The colour of digits.
const INK: Rgb<u8> = Rgb([10, 10, 10]);

/// One plate of a [`Scene`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plate {
    /// Its colour, of which a scene has no second plate.
    pub colour: Colour,
    /// Its row, 0 at the top.
    pub row: u32,
    /// Its column, 0 at the left.
    pub column: u32,
    /// The digit that it bears, 0 to 9.
    pub digit: u8,
    /// How far its centre is off its cell's, to the right and down, in pixels.
    offset: (i32, i32),
}

/// What a picture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The plates, in no particular order.
    pub plates: Vec<Plate>,
    tone: i32,
}

/// Scene `index` of `seed` in `split`.
pub fn scene(split: Split, seed: u64, index: u64) -> Scene {
    let mut draws = Draws::new(seed, index, 0);
    loop {
        let scene = Scene::draw(&mut draws);
        if scene.split() == split {
            return scene;
        }
    }
}

impl Scene {
    fn draw(draws: &mut Draws) -> Scene {
        let count = draws.pick(&PLATE_COUNTS);
        let mut cells: Vec<u32> = (0..GRID * GRID).collect();
        let mut colours = Colour::ALL;
        draws.shuffle(&mut cells);
        draws.shuffle(&mut colours);
        let plates = cells.into_iter().zip(colours).take(count).map(|(cell, colour)| Plate {
            colour,
            row: cell / GRID,
            column: cell % GRID,
            digit: draws.below(10) as u8,
            offset: (draws.around_zero(JITTER), draws.around_zero(JITTER)),
        });
        Scene { plates: plates.collect(), tone: draws.around_zero(TONE) }
    }

    /// The split that this scene belongs to: a function of its plates' colours, cells and digits, whatever their order.
    pub fn split(&self) -> Split {
        let sum = self.plates.iter().fold(0u64, |sum, plate| {
            let cell = u64::from(plate.row * GRID + plate.column);
            sum.wrapping_add(mix((cell * 16 + u64::from(plate.digit)) * 16 + plate.colour as u64 + 1))
        });
        if mix(sum).is_multiple_of(HELD_OUT_SHARE) { Split::HeldOut } else { Split::Train }
    }

    /// Draws the picture, [`PICTURE_SIDE`] pixels square.
    pub fn picture(&self) -> RgbImage {
        let shade =
            |at: u32, low: u32, range: u32| (low + range * at / PICTURE_SIDE).saturating_add_signed(self.tone) as u8;
        let reds: Vec<u8> = (0..PICTURE_SIDE).map(|x| shade(x, 30, 120)).collect();
        let green = shade(0, 60, 0);
        let mut pixels = Vec::with_capacity((PICTURE_SIDE * PICTURE_SIDE * 3) as usize);
        for y in 0..PICTURE_SIDE {
            let blue = shade(y, 30, 120);
            pixels.extend(reds.iter().flat_map(|&red| [red, green, blue]));
        }
        let mut picture = RgbImage::from_raw(PICTURE_SIDE, PICTURE_SIDE, pixels).unwrap_or_default();
        for plate in &self.plates {
            plate.paint(&mut picture);
        }
        picture
    }

    /// What a look at a cell sees: [`CROP_SIDE`] pixels square around the cell's centre, cut out of `picture`.
    pub fn crop(picture: &RgbImage, row: u32, column: u32) -> RgbImage {
        let start = |cell: u32| cell * CELL + (CELL - CROP_SIDE) / 2;
        image::imageops::crop_imm(picture, start(column), start(row), CROP_SIDE, CROP_SIDE).to_image()
    }
}

impl Plate {
    fn paint(&self, picture: &mut RgbImage) {
        let centre_x = (self.column * CELL + CELL / 2).saturating_add_signed(self.offset.0);
        let centre_y = (self.row * CELL + CELL / 2).saturating_add_signed(self.offset.1);
        let (left, top) = (centre_x - PLATE_WIDTH / 2, centre_y - PLATE_HEIGHT / 2);
        fill(picture, left, top, PLATE_WIDTH, PLATE_HEIGHT, self.colour.rgb());
        let (left, top) = (centre_x - GLYPH_WIDTH * DOT / 2, centre_y - GLYPH_HEIGHT * DOT / 2);
        for (across, down) in font::dots(self.digit) {
            fill(picture, left + across * DOT, top + down * DOT, DOT, DOT, INK);
        }
    }
}

fn fill(picture: &mut RgbImage, left: u32, top: u32, width: u32, height: u32, colour: Rgb<u8>) {
    for y in top..top + height {
        for x in left..left + width {
            picture.put_pixel(x, y, colour);
        }
    }
}
