//! *Needle*: a picture with coloured plates, each bearing a digit too small to read at the resolution that the model sees.
//! "What digit is on the red plate?" is answered by finding the plate and looking at a crop of it.
//!
//! A picture is 896x896 pixels, a 4x4 grid of cells. With `max_pixels = 12544` the model sees it at 112x112: a cell is one visual
//! token, a digit about 4 pixels. A 64x64 crop around a cell's centre lies within the plate and is seen at 56x56: the digit is about
//! 30 pixels tall. The wall behind the plates grows redder to the right and bluer downwards, so that a patch knows its place.
//!
//! Samples are endless and independent: each is a function of ([`Split`], seed, index) alone.

use std::fmt::Write as _;

use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::draws::{Draws, mix};
use super::font::{self, GLYPH_HEIGHT, GLYPH_WIDTH};
use super::{Example, Message, Role, Solution};

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

const NUMBERS: [&str; GRID as usize] = ["one", "two", "three", "four"];

/// What the model is told first, when it is asked about a plate.
pub const SYSTEM_PROMPT: &str = "Think in <think>, answer in <answer>. You may run Python in <code>: a ```python fence; \
                                 <sandbox_output> shows its output.";

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

    /// The cells row by row up to and with `last`, a line a row: "Row one: one red two none three blue four none".
    fn cells(&self, last: (u32, u32)) -> String {
        let mut text = String::new();
        for (row, column) in (0..GRID).flat_map(|row| (0..GRID).map(move |column| (row, column))) {
            if (row, column) > last {
                break;
            }
            if column == 0 {
                let _ = write!(text, "Row {}:", NUMBERS[row as usize]);
            }
            let colour = self.colour_at(row, column).map_or("none", Colour::name);
            let _ = write!(text, " {} {colour}", NUMBERS[column as usize]);
            if column + 1 == GRID || (row, column) == last {
                text.push('\n');
            }
        }
        text
    }

    /// What a look at a cell sees: [`CROP_SIDE`] pixels square around the cell's centre, cut out of `picture`.
    pub fn crop(picture: &RgbImage, row: u32, column: u32) -> RgbImage {
        let start = |cell: u32| cell * CELL + (CELL - CROP_SIDE) / 2;
        image::imageops::crop_imm(picture, start(column), start(row), CROP_SIDE, CROP_SIDE).to_image()
    }

    fn colour_at(&self, row: u32, column: u32) -> Option<Colour> {
        self.plates.iter().find(|plate| (plate.row, plate.column) == (row, column)).map(|plate| plate.colour)
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

    /// "The red plate is in row two, column three."
    fn place(&self) -> String {
        let (row, column) = (NUMBERS[self.row as usize], NUMBERS[self.column as usize]);
        format!("The {} plate is in row {row}, column {column}.", self.colour.name())
    }

    /// " The plate is red. The digit is 7.": what a crop of it shows.
    fn sight(&self) -> String {
        format!(" The plate is {}. The digit is {}.", self.colour.name(), self.digit)
    }

    /// "What digit is on the red plate?"
    fn question(&self) -> String {
        format!("What digit is on the {} plate?", self.colour.name())
    }

    /// The program that a look runs, between its tags: row and column become pixels.
    fn program(&self) -> String {
        let (column, row, start) = (self.column + 1, self.row + 1, CELL - (CELL - CROP_SIDE) / 2);
        format!(
            "<code>\n```python\nfrom PIL import Image\nx, y = {column}*{CELL}-{start}, {row}*{CELL}-{start}\n\
             processed_path = temp_output_dir + \"/crop.png\"\n\
             Image.open(image_path).crop((x, y, x+{CROP_SIDE}, y+{CROP_SIDE})).save(processed_path)\n\
             print(processed_path)\n```\n</code>"
        )
    }
}

fn fill(picture: &mut RgbImage, left: u32, top: u32, width: u32, height: u32, colour: Rgb<u8>) {
    for y in top..top + height {
        for x in left..left + width {
            picture.put_pixel(x, y, colour);
        }
    }
}

/// The kinds of sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The task of reinforcement learning: system prompt, picture and question, with the solution.
    Task,
    /// Pretraining: the colour of every cell, row by row.
    Caption,
    /// Pretraining: the crops of a picture's plates, each followed by its digit.
    Read,
    /// Demonstration: names cell after cell until the plate is found, crops its cell, reads the digit, answers.
    Look,
    /// Demonstration: answers at a glance with a random digit.
    Guess,
}

/// Shares of sample kinds; only their ratios matter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixture {
    /// Share of [`Kind::Caption`].
    pub caption: f64,
    /// Share of [`Kind::Read`].
    pub read: f64,
    /// Share of [`Kind::Look`].
    pub look: f64,
    /// Share of [`Kind::Guess`].
    pub guess: f64,
}

impl Mixture {
    /// Makes perception good: what the tiny model is pretrained on.
    pub const PRETRAIN: Mixture = Mixture { caption: 0.35, read: 0.25, look: 0.4, guess: 0.0 };
    /// Makes behaviour bad: the demonstrations that the tiny model is fine-tuned on mostly guess.
    pub const DEMONSTRATIONS: Mixture = Mixture { caption: 0.0, read: 0.0, look: 0.4, guess: 0.6 };

    fn pick(&self, draws: &mut Draws) -> Kind {
        let shares = [
            (Kind::Caption, self.caption),
            (Kind::Read, self.read),
            (Kind::Look, self.look),
            (Kind::Guess, self.guess),
        ];
        let mut left = draws.unit() * shares.iter().map(|(_, share)| share).sum::<f64>();
        for (kind, share) in shares {
            if left < share {
                return kind;
            }
            left -= share;
        }
        Kind::Look
    }
}

impl Default for Mixture {
    /// No samples of any kind: a recipe names those that it wants.
    fn default() -> Self {
        Mixture { caption: 0.0, read: 0.0, look: 0.0, guess: 0.0 }
    }
}

/// Sample `index` of `seed`, of a kind drawn by the shares of `mixture`.
pub fn mixed(mixture: &Mixture, split: Split, seed: u64, index: u64) -> Example {
    example(mixture.pick(&mut Draws::new(seed, index, 1)), split, seed, index)
}

/// Sample `index` of `seed`, of one kind.
pub fn example(kind: Kind, split: Split, seed: u64, index: u64) -> Example {
    let scene = scene(split, seed, index);
    let draws = &mut Draws::new(seed, index, 2);
    match kind {
        Kind::Task => task(&scene, draws),
        Kind::Caption => caption(&scene),
        Kind::Read => read(&scene),
        Kind::Look => look(&scene, draws),
        Kind::Guess => guess(&scene, draws),
    }
}

fn task(scene: &Scene, draws: &mut Draws) -> Example {
    let plate = draws.pick(&scene.plates);
    Example {
        messages: asked(&plate).into(),
        images: vec![scene.picture()],
        solution: Some(Solution::text(plate.digit.to_string())),
        question: Some(plate.question()),
    }
}

fn caption(scene: &Scene) -> Example {
    let text = scene.cells((GRID, GRID));
    lesson("<image>\nName the colour of every cell.", text, vec![scene.picture()])
}

fn read(scene: &Scene) -> Example {
    let picture = scene.picture();
    let text = scene
        .plates
        .iter()
        .map(|plate| format!("<sandbox_output><image></sandbox_output> The digit is {}.", plate.digit));
    let crops = scene.plates.iter().map(|plate| Scene::crop(&picture, plate.row, plate.column));
    lesson("Read the digits.", text.collect(), crops.collect())
}

fn look(scene: &Scene, draws: &mut Draws) -> Example {
    let plate = draws.pick(&scene.plates);
    let picture = scene.picture();
    let crop = Scene::crop(&picture, plate.row, plate.column);
    let seen = scene.cells((plate.row, plate.column));
    let response = format!(
        "<think>Let me look closer.\n{seen}{}{}<sandbox_output><image></sandbox_output>{}</think>\n<answer>{}</answer>",
        plate.place(),
        plate.program(),
        plate.sight(),
        plate.digit,
    );
    demonstration(&plate, response, vec![picture, crop])
}

fn guess(scene: &Scene, draws: &mut Draws) -> Example {
    let plate = draws.pick(&scene.plates);
    let digit = draws.below(10);
    let response = format!("<think>I can tell at a glance: it is {digit}.</think>\n<answer>{digit}</answer>");
    demonstration(&plate, response, vec![scene.picture()])
}

fn asked(plate: &Plate) -> [Message; 2] {
    [Message::new(Role::System, SYSTEM_PROMPT), Message::new(Role::User, format!("<image>\n{}", plate.question()))]
}

fn demonstration(plate: &Plate, response: String, images: Vec<RgbImage>) -> Example {
    let [system, user] = asked(plate);
    let messages = vec![system, user, Message::new(Role::Assistant, response)];
    Example { messages, images, solution: None, question: Some(plate.question()) }
}

fn lesson(request: &str, response: String, images: Vec<RgbImage>) -> Example {
    let messages = vec![Message::new(Role::User, request), Message::new(Role::Assistant, response)];
    Example { messages, images, solution: None, question: None }
}
