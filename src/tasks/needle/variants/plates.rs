//! The variants whose picture is a wall of plates, as in the plain task.

use image::RgbImage;

use super::{Drawn, Sight, hermes, tool_tag};
use crate::tasks::draws::Draws;
use crate::tasks::needle::scene::{CELL, CROP_SIDE, PICTURE_SIDE, PLAIN, Plate, Scene, Split, Style};

/// More plates, smaller digits.
const SMALL: Style = Style { colours: 12, plates: [10, 11, 11, 12], plate: (144, 104), dot: 3, off_centre: 0 };
/// Large plates, small digits in a corner of them.
const NESTED: Style = Style { colours: 8, plates: [6, 7, 7, 8], plate: (208, 208), dot: 4, off_centre: CELL / 4 };
/// Side of a crop that shows a small digit, in pixels.
const SMALL_CROP_SIDE: u32 = 38;
/// Side of a crop that shows the digit in a corner, in pixels.
const CORNER_CROP_SIDE: u32 = 50;
/// What a dark picture's brightness is divided by.
const DARKNESS: u8 = 16;

/// `[left, top, right, bottom]` of `side` pixels about the middle of a plate's cell.
fn about_middle(plate: &Plate, side: u32) -> [u32; 4] {
    let start = |cell: u32| cell * CELL + (CELL - side) / 2;
    let (left, top) = (start(plate.column), start(plate.row));
    [left, top, left + side, top + side]
}

/// Pixels as thousandths of a picture's side.
fn thousandths(area: [u32; 4], side: u32) -> [u32; 4] {
    area.map(|at| (2000 * at + side) / (2 * side))
}

/// What is thought before the crop: the cells up to the plate, and its place.
fn found(scene: &Scene, plate: &Plate) -> String {
    format!("Let me look closer.\n{}{}", scene.cells((plate.row, plate.column)), plate.place())
}

/// What a plate's crop shows.
fn sight(plate: &Plate) -> Sight {
    Sight { text: plate.sight().trim_start().to_owned(), digit: plate.digit }
}

fn cut(picture: &RgbImage, [left, top, right, bottom]: [u32; 4]) -> RgbImage {
    image::imageops::crop_imm(picture, left, top, right - left, bottom - top).to_image()
}

/// Crops of all plates, each the part of `area`.
fn crops(scene: &Scene, picture: &RgbImage, area: impl Fn(&Plate) -> [u32; 4]) -> Vec<(Vec<RgbImage>, Sight)> {
    scene.plates.iter().map(|plate| (vec![cut(picture, area(plate))], sight(plate))).collect()
}

pub(super) fn small(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let scene = Scene::of(&SMALL, split, seed, index);
    let plate = draws.pick(&scene.plates);
    let picture = scene.picture();
    let area = |plate: &Plate| about_middle(plate, SMALL_CROP_SIDE);
    let arguments = format!("{{\"bbox_2d\": {:?}}}", area(&plate));
    Drawn {
        crops: crops(&scene, &picture, area),
        images: vec![picture],
        question: plate.question(),
        calls: vec![hermes(&found(&scene, &plate), [("image_zoom_in_tool", arguments)])],
        sight: sight(&plate),
    }
}

/// A zoom into image `index` of the trajectory.
fn zoom(area: [u32; 4], side: u32, label: &str, index: usize) -> (&'static str, String) {
    let area = thousandths(area, side);
    ("image_zoom_in_tool", format!("{{\"label\": \"{label}\", \"bbox_2d\": {area:?}, \"img_idx\": {index}}}"))
}

pub(super) fn compare(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let scene = Scene::of(&PLAIN, split, seed, index);
    let first = draws.pick(&scene.plates);
    let second = loop {
        let second = draws.pick(&scene.plates);
        if second != first {
            break second;
        }
    };
    let [one, other] = [first.colour.name(), second.colour.name()];
    let last = (first.row, first.column).max((second.row, second.column));
    let thought = format!("Let me look closer.\n{}{} {}", scene.cells(last), first.place(), second.place());
    let area = |plate: &Plate| about_middle(plate, CROP_SIDE);
    let crop = |plate: &Plate| zoom(area(plate), PICTURE_SIDE, plate.colour.name(), 0);
    let picture = scene.picture();
    let both = |pair: &[Plate]| (pair.iter().map(|plate| cut(&picture, area(plate))).collect(), larger(pair));
    Drawn {
        crops: scene.plates.chunks_exact(2).map(both).collect(),
        images: vec![picture],
        question: format!("What is the larger digit, on the {one} plate or on the {other} plate?"),
        calls: vec![hermes(&thought, [crop(&first), crop(&second)])],
        sight: larger(&[first, second]),
    }
}

/// The larger digit on plates.
fn larger(plates: &[Plate]) -> Sight {
    let seen = plates.iter().map(|plate| format!("The {} plate has {}. ", plate.colour.name(), plate.digit));
    let digit = plates.iter().map(|plate| plate.digit).max().unwrap_or_default();
    Sight { text: format!("{}The larger digit is {digit}.", seen.collect::<String>()), digit }
}

pub(super) fn nested(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let scene = Scene::of(&NESTED, split, seed, index);
    let plate = draws.pick(&scene.plates);
    let colour = plate.colour.name();
    // Within a plate's cell, and within the picture.
    let corner = |plate: &Plate| {
        let start = |corner: u32| CELL / 4 + corner * CELL / 2 - CORNER_CROP_SIDE / 2;
        let (left, top) = (start(plate.corner.1), start(plate.corner.0));
        [left, top, left + CORNER_CROP_SIDE, top + CORNER_CROP_SIDE]
    };
    let in_picture = |plate: &Plate| {
        let [x, y] = [plate.column, plate.row].map(|cell| cell * CELL);
        let [left, top, right, bottom] = corner(plate);
        [x + left, y + top, x + right, y + bottom]
    };
    let side = |corner: u32, names: [&'static str; 2]| names[corner as usize];
    let (down, across) = plate.corner;
    let place = format!("{} {}", side(down, ["upper", "lower"]), side(across, ["left", "right"]));
    let picture = scene.picture();
    Drawn {
        crops: crops(&scene, &picture, in_picture),
        images: vec![picture],
        question: plate.question(),
        calls: vec![
            hermes(&found(&scene, &plate), [zoom(about_middle(&plate, CELL), PICTURE_SIDE, colour, 0)]),
            hermes(&format!("The digit is in the {place} corner."), [zoom(corner(&plate), CELL, "digit", 1)]),
        ],
        sight: sight(&plate),
    }
}

pub(super) fn dark(split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
    let scene = Scene::of(&PLAIN, split, seed, index);
    let plate = draws.pick(&scene.plates);
    let mut picture = scene.picture();
    picture.iter_mut().for_each(|value| *value /= DARKNESS);
    let mut brightened = picture.clone();
    brightened.iter_mut().for_each(|value| *value *= DARKNESS);
    let [left, top, ..] = about_middle(&plate, CROP_SIDE);
    let area = format!("{{\"x\": {left}, \"y\": {top}, \"width\": {CROP_SIDE}, \"height\": {CROP_SIDE}}}");
    let seen = format!("{}{}", scene.cells((plate.row, plate.column)), plate.place());
    Drawn {
        crops: crops(&scene, &brightened, |plate| about_middle(plate, CROP_SIDE)),
        images: vec![picture],
        question: plate.question(),
        calls: vec![
            tool_tag("Let me look closer.", "adjust_brightness", &format!("{{\"factor\": {DARKNESS}}}")),
            tool_tag(&seen, "crop_image", &area),
        ],
        sight: sight(&plate),
    }
}
