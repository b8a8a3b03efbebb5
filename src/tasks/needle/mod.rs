//! *Needle*: a picture with coloured plates, each bearing a digit too small to read at the resolution that the model sees.
//! "What digit is on the red plate?" is answered by finding the plate and looking at a crop of it.
//!
//! A picture is 896x896 pixels, a 4x4 grid of cells. With `max_pixels = 12544` the model sees it at 112x112: a cell is one visual
//! token, a digit about 4 pixels. A 64x64 crop around a cell's centre lies within the plate and is seen at 56x56: the digit is about
//! 30 pixels tall. The wall behind the plates grows redder to the right and bluer downwards, so that a patch knows its place.
//!
//! [`variants`] are harder tasks of the same kind, for environments that call tools by name.
//!
//! Samples are endless and independent: each is a function of ([`Split`], seed, index) alone.

mod mixture;
mod paint;
mod scene;
pub mod variants;

use std::fmt::Write as _;

use image::RgbImage;

use super::draws::Draws;
use super::{Example, Message, Role, Solution};

pub use mixture::{Kind, Mixture};
pub use scene::{CELL, CROP_SIDE, Colour, GRID, PICTURE_SIDE, Plate, Scene, Split, scene};
pub use variants::Variant;

use scene::NUMBERS;

/// What the model is told first, when it is asked about a plate.
pub const SYSTEM_PROMPT: &str = "Think in <think>, answer in <answer>. You may run Python in <code>: a ```python fence; \
                                 <sandbox_output> shows its output.";

/// Sample `index` of `seed`, of a kind drawn by the shares of `mixture`.
pub fn mixed(mixture: &Mixture, split: Split, seed: u64, index: u64) -> Example {
    example(mixture.kind_of(seed, index), split, seed, index)
}

/// Sample `index` of `seed`, of one kind.
pub fn example(kind: Kind, split: Split, seed: u64, index: u64) -> Example {
    let scene = scene(split, seed, index);
    let draws = &mut Draws::new(seed, index, 2);
    match kind {
        Kind::Task => task(&scene, draws),
        Kind::Caption => caption(&scene),
        Kind::Read => read(&scene),
        Kind::Look | Kind::LookTwice => look(&scene, draws),
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
        tools: None,
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
    Example { messages, images, solution: None, question: Some(plate.question()), tools: None }
}

fn lesson(request: &str, response: String, images: Vec<RgbImage>) -> Example {
    let messages = vec![Message::new(Role::User, request), Message::new(Role::Assistant, response)];
    Example { messages, images, solution: None, question: None, tools: None }
}

impl Scene {
    /// The cells row by row up to and with `last`, a line a row: "Row one: one red two none three blue four none".
    pub(super) fn cells(&self, last: (u32, u32)) -> String {
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

    fn colour_at(&self, row: u32, column: u32) -> Option<Colour> {
        self.plates.iter().find(|plate| (plate.row, plate.column) == (row, column)).map(|plate| plate.colour)
    }
}

impl Plate {
    /// "The red plate is in row two, column three."
    pub(super) fn place(&self) -> String {
        let (row, column) = (NUMBERS[self.row as usize], NUMBERS[self.column as usize]);
        format!("The {} plate is in row {row}, column {column}.", self.colour.name())
    }

    /// " The plate is red. The digit is 7.": what a crop of it shows.
    pub(super) fn sight(&self) -> String {
        format!(" The plate is {}. The digit is {}.", self.colour.name(), self.digit)
    }

    /// "What digit is on the red plate?"
    pub(super) fn question(&self) -> String {
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
