//! A call of each tool, and what Python does for it.

use std::path::PathBuf;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::images::TrajectoryImages;

use crate::photograph::photograph;

/// Width and height of the pictures.
const ORDINARY: (u32, u32) = (1024, 768);
/// Of those from which tools also crop.
const LARGE: (u32, u32) = (4000, 3000);
/// Frames of a video, of which half are selected.
const FRAMES: usize = 8;

/// The pictures of a call.
#[derive(Clone, Copy, PartialEq)]
pub enum Pictures {
    Photograph,
    LargePhotograph,
    /// A figure of six charts.
    Figure,
    Video,
}

impl Pictures {
    /// The pictures themselves.
    pub fn drawn(self) -> Vec<Arc<RgbImage>> {
        match self {
            Pictures::Photograph => vec![Arc::new(photograph(ORDINARY.0, ORDINARY.1))],
            Pictures::LargePhotograph => vec![Arc::new(photograph(LARGE.0, LARGE.1))],
            Pictures::Figure => vec![Arc::new(figure())],
            Pictures::Video => std::iter::repeat_n(Arc::new(photograph(ORDINARY.0, ORDINARY.1)), FRAMES).collect(),
        }
    }

    /// Those that a call sends to Python.
    pub fn sent(self) -> usize {
        if self == Pictures::Video { FRAMES / 2 } else { 1 }
    }
}

/// A call of a tool.
pub struct Case {
    pub tool: &'static str,
    /// The environment that means this tool by the name, where there are several.
    pub only_in: Option<&'static str>,
    /// The tool's table in a recipe.
    pub keys: &'static str,
    pub arguments: Value,
    pub pictures: Pictures,
    /// The operation in Python and its arguments; none where a tool does nothing with pictures.
    pub python: Option<(&'static str, Value)>,
}

/// The images of a trajectory over these.
pub fn trajectory(pictures: &[Arc<RgbImage>]) -> TrajectoryImages {
    let sources = pictures.iter().map(|picture| ImageSource::Memory(Arc::clone(picture))).collect();
    TrajectoryImages::of_task(sources, PathBuf::new())
}

/// Six framed charts of bars, in two rows.
fn figure() -> RgbImage {
    let mut figure = RgbImage::from_pixel(ORDINARY.0, ORDINARY.1, Rgb([255; 3]));
    let mut paint = |[left, top, right, bottom]: [u32; 4], colour: [u8; 3]| {
        for (row, column) in (top..bottom).flat_map(|row| (left..right).map(move |column| (row, column))) {
            figure.put_pixel(column, row, Rgb(colour));
        }
    };
    for (row, column) in (0..2).flat_map(|row| (0..3).map(move |column| (row, column))) {
        let (left, top) = (40 + column * 330, 50 + row * 360);
        paint([left, top, left + 280, top + 300], [0; 3]);
        paint([left + 2, top + 2, left + 278, top + 298], [255; 3]);
        for bar in 0..6 {
            let x = left + 20 + bar * 42;
            paint([x, top + 40 + 30 * ((bar + row + column) % 6), x + 26, top + 298], [40, 90, 200]);
        }
    }
    figure
}

fn case(tool: &'static str, arguments: Value, python: (&'static str, Value)) -> Case {
    Case { tool, only_in: None, keys: "", arguments, pictures: Pictures::Photograph, python: Some(python) }
}

/// The edits of the newest image.
fn edits() -> Vec<Case> {
    let half = |of: &str| json!({of: 1.5});
    vec![
        case(
            "zoom_image",
            json!({"zoom_factor": 2.0}),
            ("zoom", json!({"box": [256, 192, 768, 576], "size": [1024, 768], "resample": "LANCZOS"})),
        ),
        case("rotate_image", json!({"angle": 30}), ("rotate", json!({"angle": 30, "expand": true, "fill": 255}))),
        case("flip_image", json!({"direction": "horizontal"}), ("mirror", json!({}))),
        case("adjust_brightness", half("factor"), ("brightness", half("factor"))),
        case("adjust_contrast", half("factor"), ("contrast", half("factor"))),
        case("apply_blur", json!({"radius": 3}), ("blur", json!({"radius": 3}))),
        case("apply_sharpen", json!({"factor": 1.0}), ("sharpness", json!({"factor": 2.0}))),
        case("convert_grayscale", json!({}), ("greyscale", json!({}))),
        case("resize_image", json!({"width": 512, "height": 512}), ("thumbnail", json!({"size": [512, 512]}))),
        case("get_image_info", json!({}), ("size", json!({}))),
        case("image_rotate_tool", json!({"angle": 30}), ("rotate", json!({"angle": 30, "expand": false, "fill": 0}))),
    ]
}

/// The crops of a picture of some size, each of the middle half of its width and height.
fn crops(pictures: Pictures) -> Vec<Case> {
    let (width, height) = if pictures == Pictures::LargePhotograph { LARGE } else { ORDINARY };
    let area = [width / 4, height / 4, width * 3 / 4, height * 3 / 4];
    let [left, top, right, bottom] = area;
    let crop = || ("crop", json!({"box": area}));
    // As `smart_resize` and the limits of pixels have it.
    let (in_bank, normalized) = match pictures {
        Pictures::LargePhotograph => ([1984, 1504], [1008, 756]),
        _ => ([608, 448], [728, 532]),
    };
    let padded = [width * 3 / 20, height * 3 / 20, width * 17 / 20, height * 17 / 20];
    let bicubic = |area: [u32; 4], size: [u32; 2]| ("zoom", json!({"box": area, "size": size, "resample": "BICUBIC"}));
    let crops = vec![
        case("crop_image", json!({"x": left, "y": top, "width": right - left, "height": bottom - top}), crop()),
        Case { only_in: Some("zoom_in"), ..case("image_zoom_in_tool", json!({"bbox_2d": area}), crop()) },
        case(
            "image_zoom_in_tool",
            json!({"bbox_2d": [250, 250, 750, 750], "label": "the middle", "img_idx": 0}),
            bicubic(area, in_bank),
        ),
        case(
            "crop_image_normalized",
            json!({"bbox_2d": [0.25, 0.25, 0.75, 0.75], "target_image": 1}),
            bicubic(padded, normalized),
        ),
        case("Crop", json!({"image": "img_1", "param": format!("{area:?}")}), crop()),
    ];
    crops.into_iter().map(|case| Case { pictures, ..case }).collect()
}

/// What is left: lines, panels and frames.
fn others() -> Vec<Case> {
    let line = |at: u32, is_horizontal: bool| ("line", json!({"at": at, "is_horizontal": is_horizontal}));
    let panel = |tool| Case {
        pictures: Pictures::Figure,
        ..case(tool, json!({"image": "img_1", "param": "2"}), ("panels", json!({"shown": 2})))
    };
    vec![
        Case {
            keys: "video = true",
            pictures: Pictures::Video,
            ..case(
                "select_frames",
                json!({"target_frames": (1..=FRAMES / 2).collect::<Vec<_>>()}),
                ("resize_all", json!({"size": [644, 476]})),
            )
        },
        case("DrawHorizontalLineByY", json!({"image": "img_1", "param": "y=50"}), line(383, true)),
        case("DrawVerticalLineByX", json!({"image": "img_1", "param": "x=50"}), line(511, false)),
        panel("ZoomInSubfigure"),
        panel("ZoominSubplot"),
        Case { python: None, ..case("Terminate", json!({"ans": "7"}), ("size", json!({}))) },
    ]
}

/// All cases.
pub fn all() -> Vec<Case> {
    let crops = [Pictures::Photograph, Pictures::LargePhotograph].into_iter().flat_map(crops);
    crops.chain(edits()).chain(others()).collect()
}
