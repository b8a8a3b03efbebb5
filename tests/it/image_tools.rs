//! The image tools of DeepEyes, Qwen-Agent, Pixel Reasoner and OpenThinkIMG: their pixels against Pillow and their panels against OpenCV
//! (`tests/golden/image_tools`), what they say, and any arguments.

mod panels;
mod pixel_reasoner;
mod zoom_in;
mod zoom_in_bank;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde_json::Value;
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolOutput};

use crate::support::noise::noise;

fn picture(width: u32, height: u32, smooth: bool) -> Arc<RgbImage> {
    let levels = noise(height as usize, width as usize, smooth);
    Arc::new(RgbImage::from_raw(width, height, levels).unwrap())
}

/// A trajectory whose task has these pictures, with these images made by tools.
fn trajectory(task: &[&Arc<RgbImage>], made: &[&Arc<RgbImage>]) -> TrajectoryImages {
    let sources = task.iter().map(|picture| ImageSource::Memory(Arc::clone(picture))).collect();
    let mut images = TrajectoryImages::of_task(sources, PathBuf::new());
    made.iter().for_each(|picture| images.push(Some(Arc::clone(picture))));
    images
}

fn call(tool: &dyn Tool, arguments: &Value, images: &TrajectoryImages) -> ToolOutput {
    let subject = Subject { images: &[], folder: Path::new(""), image_name: "image.png" };
    let mut sessions = tool.open(&subject, 1).unwrap();
    sessions[0].run(&tool.request(arguments).unwrap(), images).unwrap()
}

/// The CRC-32 of width, height and bytes.
fn fingerprint(picture: &RgbImage) -> u64 {
    let mut crc = flate2::Crc::new();
    crc.update(&picture.width().to_le_bytes());
    crc.update(&picture.height().to_le_bytes());
    crc.update(picture.as_raw());
    crc.sum().into()
}

fn whole(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

fn golden(file: &str, name: &str) -> Vec<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image_tools").join(file);
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden[name].as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect()
}

/// Holds a tool against the cases of that name: `tool` makes it of the limits of pixels, and the arguments of the box or angle.
fn compare<T: Tool>(name: &str, tool: impl Fn(&[Value]) -> T, arguments: impl Fn(&Value) -> Value) {
    let cases = golden("image_tools.json", name);
    assert_eq!(cases.len(), 100);
    let (mut accepted, mut refused) = (0, 0);
    for case in cases {
        let [width, height, smooth, limits @ .., argument, expected] = case.as_slice() else { panic!() };
        let old = picture(whole(width), whole(height), smooth.as_bool().unwrap());
        let output = call(&tool(limits), &arguments(argument), &trajectory(&[&old], &[]));
        let new = output.images.first().map(|image| fingerprint(&image.pixels));
        assert_eq!(new, expected.as_u64(), "{name} {case:?}: {}", output.text);
        assert_eq!(output.status.is_ok(), new.is_some(), "{name} {case:?}");
        *(if new.is_some() { &mut accepted } else { &mut refused }) += 1;
    }
    assert!(accepted > 10 && (refused > 5 || name == "rotate"), "{name}: {accepted} were accepted, {refused} refused");
}

/// The least and the most pixels of a case.
fn pixel_limits(limits: &[Value]) -> [u64; 2] {
    [&limits[0], &limits[1]].map(|limit| whole(limit).into())
}

/// A white figure with rectangles painted on it in turn.
fn figure(width: u32, height: u32, painted: &[[u32; 7]]) -> Arc<RgbImage> {
    let mut figure = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    for &[left, top, right, bottom, red, green, blue] in painted {
        for (row, column) in (top..bottom).flat_map(|row| (left..right).map(move |column| (row, column))) {
            figure.put_pixel(column, row, Rgb([red as u8, green as u8, blue as u8]));
        }
    }
    Arc::new(figure)
}

/// Frames of 60x40 pixels at these places.
fn charts(width: u32, height: u32, places: &[(u32, u32)]) -> Arc<RgbImage> {
    let frame = |&(left, top): &(u32, u32)| {
        [
            [left, top, left + 60, top + 40, 0, 0, 0],
            [left + 1, top + 1, left + 59, top + 39, 255, 255, 255],
            [left + 20, top + 10, left + 30, top + 38, 200, 30, 30],
        ]
    };
    figure(width, height, &places.iter().flat_map(frame).collect::<Vec<_>>())
}

/// What a call gives: how it went, the text, and the size of its first image.
type Expected<'a> = (CallStatus, &'a str, Option<(u32, u32)>);

#[track_caller]
fn check(tool: &dyn Tool, images: &TrajectoryImages, cases: &[(Value, Expected<'_>)]) {
    for (arguments, expected) in cases {
        let output = call(tool, arguments, images);
        let size = output.images.first().map(|image| image.pixels.dimensions());
        assert_eq!((output.status, output.text.as_str(), size), *expected, "{} {arguments}", tool.name());
        for (number, image) in output.images.iter().enumerate() {
            assert_eq!((&image.name, image.label.as_str()), (&format!("image-{}.png", number + 1), tool.name()));
        }
    }
}

const OK: CallStatus = CallStatus::Ok;
const ERROR: CallStatus = CallStatus::Error;

