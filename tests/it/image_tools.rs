//! The image tools of DeepEyes, Qwen-Agent, Pixel Reasoner and OpenThinkIMG: their pixels against Pillow and their panels against OpenCV
//! (`tests/golden/image_tools`), what they say, and any arguments.

mod panels;

use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::support::noise::noise;

fn picture(width: u32, height: u32, smooth: bool) -> Arc<RgbImage> {
    let levels = noise(height as usize, width as usize, smooth);
    Arc::new(RgbImage::from_raw(width, height, levels).unwrap())
}

fn whole(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

fn golden(file: &str, name: &str) -> Vec<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image_tools").join(file);
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden[name].as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect()
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

