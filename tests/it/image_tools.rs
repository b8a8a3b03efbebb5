//! The image tools of DeepEyes, Qwen-Agent, Pixel Reasoner and OpenThinkIMG: their pixels against Pillow and their panels against OpenCV
//! (`tests/golden/image_tools`), what they say, and any arguments.

mod copies;
mod openthinkimg;
mod panels;
mod pixel_reasoner;
mod zoom_in;
mod zoom_in_bank;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolOutput};
use thyme_engine::rollout::tools::openthinkimg::{
    Crop, DrawLine, OpenThinkImgSettings, Terminate, ZoomInSubfigure, ZoomInSubfigureSettings,
};
use thyme_engine::rollout::tools::pixel_reasoner::{
    CropImageNormalized, CropImageNormalizedSettings, SelectFrames, SelectFramesSettings,
};
use thyme_engine::rollout::tools::zoom_in::{ImageRotate, SizeRule, ZoomIn, ZoomInSettings};
use thyme_engine::rollout::tools::zoom_in_bank::{Coordinates, ZoomInBank, ZoomInBankSettings};

use crate::support::noise::noise;

fn picture(width: u32, height: u32, smooth: bool) -> Arc<RgbImage> {
    let levels = noise(height as usize, width as usize, smooth);
    Arc::new(RgbImage::from_raw(width, height, levels).unwrap())
}

/// A trajectory whose task has these pictures, with these images made by tools.
fn trajectory(task: &[&Arc<RgbImage>], made: &[&Arc<RgbImage>]) -> TrajectoryImages {
    let sources = task.iter().map(|picture| ImageSource::Memory(Arc::clone(picture))).collect();
    let mut images = TrajectoryImages::of_task(sources, PathBuf::new());
    made.iter().for_each(|picture| images.push(Some(Arc::clone(picture)), None));
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

fn tools() -> Vec<Box<dyn Tool>> {
    let by_name = || OpenThinkImgSettings { image_by_name: true };
    let bank = |coordinates| ZoomInBank::new(ZoomInBankSettings { coordinates, ..Default::default() }).unwrap();
    let crop = |video| CropImageNormalized::new(CropImageNormalizedSettings { video, ..Default::default() }).unwrap();
    let select = SelectFrames::new(SelectFramesSettings { video: Some(true), ..Default::default() }).unwrap();
    vec![
        Box::new(ZoomIn::new(Default::default())),
        Box::new(ZoomIn::new(ZoomInSettings { size_rule: SizeRule::DeepEyes, ..ZoomInSettings::default() })),
        Box::new(ImageRotate),
        Box::new(bank(Coordinates::Relative1000)),
        Box::new(bank(Coordinates::Relative1)),
        Box::new(bank(Coordinates::Absolute)),
        Box::new(crop(false)),
        Box::new(crop(true)),
        Box::new(select),
        Box::new(Crop::new(by_name())),
        Box::new(DrawLine::horizontal(Default::default())),
        Box::new(DrawLine::vertical(by_name())),
        Box::new(ZoomInSubfigure::new(&Default::default()).unwrap()),
        Box::new(ZoomInSubfigure::subplot(&ZoomInSubfigureSettings { image_by_name: true, judge: None }).unwrap()),
        Box::new(Terminate),
    ]
}

#[test]
fn a_schema_names_the_tool_and_the_arguments_it_reads() {
    let expected = [
        "image_zoom_in_tool(bbox_2d*: array, label: string)",
        "image_zoom_in_tool(bbox_2d*: array, label: string)",
        "image_rotate_tool(angle*: integer)",
        "image_zoom_in_tool(bbox_2d*: array, label*: string, img_idx*: number)",
        "image_zoom_in_tool(bbox_2d*: array, label*: string, img_idx*: number)",
        "image_zoom_in_tool(bbox_2d*: array, label*: string, img_idx*: number)",
        "crop_image_normalized(bbox_2d*: array, target_image*: number)",
        "crop_image_normalized(bbox_2d*: array, target_image*: number)",
        "select_frames(target_frames*: array)",
        "Crop(image*: string, param*: string)",
        "DrawHorizontalLineByY(image*: string, param*: string)",
        "DrawVerticalLineByX(image*: string, param*: string)",
        "ZoomInSubfigure(image*: string, param*: string)",
        "ZoominSubplot(image*: string, param*: string)",
        "Terminate(ans*: string)",
    ];
    for (tool, expected) in tools().iter().zip(expected) {
        let schema = tool.schema().unwrap();
        let function = &schema["function"];
        let parameters = &function["parameters"];
        let required = parameters["required"].as_array().unwrap();
        let argument = |(name, of): (&String, &Value)| {
            assert!(of["description"].as_str().is_some_and(|text| text.ends_with('.')), "{schema}");
            format!(
                "{name}{}: {}",
                if required.contains(&json!(name)) { "*" } else { "" },
                of["type"].as_str().unwrap()
            )
        };
        let arguments: Vec<String> = parameters["properties"].as_object().unwrap().iter().map(argument).collect();
        assert_eq!(format!("{}({})", function["name"].as_str().unwrap(), arguments.join(", ")), expected);
        assert_eq!((schema["type"].as_str(), function["name"].as_str()), (Some("function"), Some(tool.name())));
    }
}

#[test]
fn an_image_that_cannot_be_had_is_named() {
    let mut images = TrajectoryImages::of_task(vec![ImageSource::Path("missing.png".into())], PathBuf::new());
    images.push(None, None);
    let (unreadable, not_kept) = ("image 0 cannot be read: ", "the pixels of image 1 were not kept: ");
    let area = json!([0, 0, 50, 50]);
    let expected = [
        (json!({"bbox_2d": area}), format!("Error processing image zoom-in: {unreadable}")),
        (json!({"bbox_2d": area}), format!("Error: {unreadable}")),
        (json!({"angle": 90}), format!("Error: {unreadable}")),
        (json!({"bbox_2d": area, "label": "x", "img_idx": 0}), format!("Error: Invalid input image: {unreadable}")),
        (json!({"bbox_2d": area, "label": "x", "img_idx": 1}), format!("Error: Invalid input image: {not_kept}")),
        (json!({"bbox_2d": area, "label": "x", "img_idx": -1}), format!("Error: Invalid input image: {not_kept}")),
        (json!({"bbox_2d": area, "target_image": 1}), format!("\nExecution error:\nExecution Error: {unreadable}")),
        (json!({"bbox_2d": area, "target_image": 2}), format!("\nExecution error:\nExecution Error: {not_kept}")),
        (json!({"target_frames": [1]}), format!("\nExecution error:\nExecution Error: {unreadable}")),
        (json!({"image": "img_1", "param": "[0, 0, 9, 9]"}), format!("Failed to call tool Crop: {unreadable}")),
        (json!({"param": "y=5"}), format!("Failed to call tool DrawHorizontalLineByY: {not_kept}")),
        (json!({"image": "img_2", "param": "x=5"}), format!("Failed to call tool DrawVerticalLineByX: {not_kept}")),
        (json!({"param": "1"}), format!("Failed to call tool ZoomInSubfigure: {not_kept}")),
        (json!({"image": "img_1", "param": "1"}), format!("Failed to call tool ZoominSubplot: {unreadable}")),
    ];
    for (tool, (arguments, start)) in tools().iter().zip(expected) {
        let output = call(&**tool, &arguments, &images);
        assert!(output.status == ERROR && output.text.starts_with(&start), "{} {}", tool.name(), output.text);
    }
}

/// What these keys read as, or the first line of why they do not.
fn keys<T: DeserializeOwned>(keys: &str) -> Result<T, String> {
    toml::from_str(keys).map_err(|error| error.message().to_owned())
}

#[test]
fn settings_have_the_originals_defaults_and_refuse_what_they_do_not_know() {
    assert_eq!(keys("size_rule = \"verl\""), Ok(ZoomInSettings::default()));
    assert_eq!(
        keys("size_rule = \"deepeyes\""),
        Ok(ZoomInSettings { size_rule: SizeRule::DeepEyes, ..ZoomInSettings::default() })
    );
    let bank = |coordinates| ZoomInBankSettings { coordinates, min_pixels: 262_144, max_pixels: 12_845_056 };
    assert_eq!(keys(""), Ok(bank(Coordinates::Relative1000)));
    for (name, coordinates) in [
        ("relative_1000", Coordinates::Relative1000),
        ("relative_1", Coordinates::Relative1),
        ("absolute", Coordinates::Absolute),
    ] {
        assert_eq!(keys(&format!("coordinates = \"{name}\"")), Ok(bank(coordinates)));
    }
    let crop = CropImageNormalizedSettings { video: true, padding: 0.1, min_pixels: 3136, max_pixels: 784_000 };
    assert_eq!(keys("video = true"), Ok(crop));
    let select = SelectFramesSettings { video: None, min_pixels: 3136, max_pixels: 313_600 };
    assert_eq!(keys(""), Ok(select));
    assert_eq!(keys("image_by_name = true"), Ok(OpenThinkImgSettings { image_by_name: true }));
    let subfigure: ZoomInSubfigureSettings = keys("judge.model = \"m\"").unwrap();
    assert_eq!(subfigure.judge.unwrap().model, "m");
    for error in [
        keys::<ZoomInSettings>("size = 28").unwrap_err(),
        keys::<ZoomInBankSettings>("size = 28").unwrap_err(),
        keys::<CropImageNormalizedSettings>("size = 28").unwrap_err(),
        keys::<SelectFramesSettings>("size = 28").unwrap_err(),
        keys::<OpenThinkImgSettings>("size = 28").unwrap_err(),
        keys::<ZoomInSubfigureSettings>("size = 28").unwrap_err(),
    ] {
        assert!(error.contains("unknown field `size`"), "{error}");
    }
    let error = keys::<ZoomInSettings>("size_rule = \"qwen\"").unwrap_err();
    assert!(error.contains("expected `verl` or `deepeyes`"), "{error}");
}

/// Values that a model might write for an argument, and others.
fn any_argument() -> impl Strategy<Value = Value> {
    let number = || {
        prop_oneof![3 => (-50.0..250.0).prop_map(|number| json!(number)), 3 => (-5i64..250).prop_map(Value::from),
        2 => (0.0..1.0).prop_map(|number| json!(number)), 1 => any::<f64>().prop_map(|number| json!(number)), 1 => any::<i64>().prop_map(Value::from)]
    };
    let texts = vec![
        "[1, 2, 30, 40]",
        "[0,0,99999999999999999999,5]",
        "y=28.5 x1=3",
        "x2=\"9\" y=1e9",
        "img_1",
        "img_2",
        "a",
        "2",
        "",
    ];
    prop_oneof![
        6 => prop::collection::vec(number(), 0..6).prop_map(Value::from),
        6 => prop::collection::vec(number(), 4).prop_map(Value::from),
        4 => number(),
        4 => prop::sample::select(texts).prop_map(Value::from),
        1 => prop::sample::select(vec![json!(null), json!(true), json!({"a": [1]}), json!([[1, 2], [3, 4]])]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_arguments_make_a_tool_panic_or_an_image_too_large(
        chosen in 0usize..15,
        (width, height) in prop_oneof![4 => (1u32..200, 1u32..200), 1 => (1u32..4, 1000u32..3000), 1 => (1000u32..3000, 1u32..4)],
        values in prop::collection::vec((0usize..12, any_argument()), 0..6),
        first in any_argument(),
    ) {
        let names = ["bbox_2d", "bbox_2d", "label", "img_idx", "target_image", "target_frames", "angle", "image", "param", "param", "ans", "other"];
        let tool = &tools()[chosen];
        let own = tool.schema().unwrap()["function"]["parameters"]["required"][0].as_str().unwrap().to_owned();
        let mut arguments = serde_json::Map::new();
        arguments.extend([("label".to_owned(), json!("it")), ("img_idx".to_owned(), json!(0)), ("target_image".to_owned(), json!(1))]);
        arguments.extend(values.into_iter().map(|(name, value)| (names[name].to_owned(), value)));
        arguments.insert(own, first.clone());
        let old = picture(width, height, true);
        let made = picture(9, 7, true);
        for arguments in [Value::Object(arguments), first] {
            for images in [trajectory(&[&old], &[&made]), trajectory(&[], &[])] {
                let output = call(&**tool, &arguments, &images);
                prop_assert!(output.status.is_ok() || output.images.is_empty() && !output.text.is_empty());
                for image in output.images {
                    prop_assert!(u64::from(image.pixels.width()) * u64::from(image.pixels.height()) <= 1 << 26);
                }
            }
        }
    }
}
