//! What a picture shows: plates with digits in the cells of a grid, drawn from a seed and painted.

use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::paint::{fill, paint_digit, wall};
use crate::tasks::draws::{Draws, mix};

/// Side of the picture in pixels.
pub const PICTURE_SIDE: u32 = 896;
/// Cells along a side of the grid.
pub const GRID: u32 = 4;
/// Names of rows and columns.
pub(super) const NUMBERS: [&str; GRID as usize] = ["one", "two", "three", "four"];
/// Side of a cell in pixels.
pub const CELL: u32 = PICTURE_SIDE / GRID;
/// Side of the crop that a look takes around a cell's centre, in pixels.
pub const CROP_SIDE: u32 = 64;

/// A plate's centre is at most this many pixels off its cell's, each way.
const JITTER: i32 = 4;
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

/// What is the same in all scenes of a kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// How many of the colours its plates have.
    pub colours: usize,
    /// How many plates a picture has, one of these being drawn.
    pub plates: [usize; 4],
    /// Width and height of a plate in pixels.
    pub plate: (u32, u32),
    /// Pixels per dot of a digit, which is five dots wide and seven tall.
    pub dot: u32,
    /// How far a digit's centre is off its plate's, each way, in pixels: to one of the four corners.
    pub off_centre: u32,
}

/// Six to eight plates with a digit of 35 pixels in the middle.
pub(super) const PLAIN: Style = Style { colours: 8, plates: [6, 7, 7, 8], plate: (144, 104), dot: 5, off_centre: 0 };

/// The colours of plates.
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
    Gray,
    Brown,
    Purple,
    Lime,
}

impl Colour {
    /// All colours, in the order above; the plain scenes have the first eight.
    pub const ALL: [Colour; 12] = [
        Colour::Red,
        Colour::Green,
        Colour::Blue,
        Colour::Yellow,
        Colour::Cyan,
        Colour::Pink,
        Colour::White,
        Colour::Orange,
        Colour::Gray,
        Colour::Brown,
        Colour::Purple,
        Colour::Lime,
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
            Colour::Gray => "gray",
            Colour::Brown => "brown",
            Colour::Purple => "purple",
            Colour::Lime => "lime",
        }
    }

    pub(super) fn rgb(self) -> Rgb<u8> {
        Rgb(match self {
            Colour::Red => [240, 50, 50],
            Colour::Green => [50, 200, 70],
            Colour::Blue => [60, 110, 255],
            Colour::Yellow => [245, 230, 40],
            Colour::Cyan => [40, 220, 230],
            Colour::Pink => [250, 110, 220],
            Colour::White => [245, 245, 245],
            Colour::Orange => [255, 150, 30],
            Colour::Gray => [150, 150, 150],
            Colour::Brown => [150, 90, 30],
            Colour::Purple => [150, 50, 230],
            Colour::Lime => [180, 255, 100],
        })
    }
}

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
    /// The corner of the plate that the digit is in, row and column 0 or 1; not where it is in the middle.
    pub(super) corner: (u32, u32),
}

/// What a picture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The plates, in no particular order.
    pub plates: Vec<Plate>,
    tone: i32,
    style: &'static Style,
}

/// Plain scene `index` of `seed` in `split`.
pub fn scene(split: Split, seed: u64, index: u64) -> Scene {
    Scene::of(&PLAIN, split, seed, index)
}

/// The split of what has this hash.
fn split_of(hash: u64) -> Split {
    if mix(hash).is_multiple_of(HELD_OUT_SHARE) { Split::HeldOut } else { Split::Train }
}

/// The first of what `draw` gives that belongs to `split`, by a hash of what it shows.
pub(super) fn drawn<T>(split: Split, mut draw: impl FnMut() -> T, hash: impl Fn(&T) -> u64) -> T {
    loop {
        let scene = draw();
        if split_of(hash(&scene)) == split {
            return scene;
        }
    }
}

impl Scene {
    /// Scene `index` of `seed` in `split`, of a style.
    pub(super) fn of(style: &'static Style, split: Split, seed: u64, index: u64) -> Scene {
        let mut draws = Draws::new(seed, index, 0);
        drawn(split, || Scene::draw(style, &mut draws), Scene::hash)
    }

    fn draw(style: &'static Style, draws: &mut Draws) -> Scene {
        let count = draws.pick(&style.plates);
        let mut cells: Vec<u32> = (0..GRID * GRID).collect();
        let mut colours = Colour::ALL[..style.colours].to_vec();
        draws.shuffle(&mut cells);
        draws.shuffle(&mut colours);
        let plates = cells.into_iter().zip(colours).take(count).map(|(cell, colour)| Plate {
            colour,
            row: cell / GRID,
            column: cell % GRID,
            digit: draws.below(10) as u8,
            offset: (draws.around_zero(JITTER), draws.around_zero(JITTER)),
            corner: match style.off_centre {
                0 => (0, 0),
                _ => (draws.below(2) as u32, draws.below(2) as u32),
            },
        });
        Scene { plates: plates.collect(), tone: draws.around_zero(TONE), style }
    }

    /// A function of the plates' colours, cells and digits, whatever their order.
    fn hash(&self) -> u64 {
        self.plates.iter().fold(0u64, |sum, plate| {
            let cell = u64::from(plate.row * GRID + plate.column);
            sum.wrapping_add(mix((cell * 16 + u64::from(plate.digit)) * 16 + plate.colour as u64 + 1))
        })
    }

    /// The split that this scene belongs to.
    pub fn split(&self) -> Split {
        split_of(self.hash())
    }

    /// Draws the picture, [`PICTURE_SIDE`] pixels square.
    pub fn picture(&self) -> RgbImage {
        let mut picture = wall(PICTURE_SIDE, self.tone);
        for plate in &self.plates {
            plate.paint(self.style, &mut picture);
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
    fn paint(&self, style: &Style, picture: &mut RgbImage) {
        let x = (self.column * CELL + CELL / 2).saturating_add_signed(self.offset.0);
        let y = (self.row * CELL + CELL / 2).saturating_add_signed(self.offset.1);
        let (width, height) = style.plate;
        fill(picture, (x - width / 2, y - height / 2), style.plate, self.colour.rgb());
        let off = |at: u32, corner: u32| at + 2 * corner * style.off_centre - style.off_centre;
        paint_digit(picture, (off(x, self.corner.1), off(y, self.corner.0)), style.dot, self.digit);
    }
}
