//! `crop_image_normalized` and `select_frames` of Pixel Reasoner.

use std::sync::Arc;

use image::RgbImage;
use serde_json::{Value, json};
use thyme_engine::rollout::tools::pixel_reasoner::{
    CropImageNormalized, CropImageNormalizedSettings, SelectFrames, SelectFramesSettings,
};

use super::{ERROR, OK, call, check, compare, picture, pixel_limits, trajectory};

#[test]
fn padded_crops_equal_those_of_pillow_bit_for_bit() {
    for name in ["crop_image_normalized", "crop_image_normalized relative"] {
        let tool = |limits: &[Value]| {
            let [min_pixels, max_pixels] = pixel_limits(limits);
            let settings = CropImageNormalizedSettings { min_pixels, max_pixels, ..Default::default() };
            CropImageNormalized::new(settings).unwrap()
        };
        compare(name, tool, |area| json!({"bbox_2d": area, "target_image": 1}));
    }
}

#[test]
fn pixel_reasoner_numbers_images_and_frames_as_the_original_does() {
    let (old, made) = (picture(280, 140, true), picture(84, 56, false));
    let images = trajectory(&[&old], &[&made]);
    let crop = CropImageNormalized::new(Default::default()).unwrap();
    let failed = |why: &str| format!("\nExecution error:\n{why}\n");
    let wrong = "Execution Error: Incorrect `target_image` argument in `crop_image_normalized` operation. You can only pick an image ";
    let target = |target: i64| json!({"bbox_2d": [0.1, 0.1, 0.9, 0.9], "target_image": target});
    let bbox = |bbox: Value| json!({"bbox_2d": bbox, "target_image": 1});
    let whole = "\nHere is the cropped image (Image Size: 280x140):";
    let small = "\nHere is the cropped image (Image Size: 84x56):";
    check(
        &crop,
        &images,
        &[
            (target(1), (OK, whole, Some((280, 140)))),
            (target(2), (OK, small, Some((84, 56)))),
            (target(3), (ERROR, &failed(&format!("{wrong}within [1,2]")), None)),
            (target(0), (ERROR, &failed(&format!("{wrong}within [1,2]")), None)),
            (bbox(json!([28, 14, 252, 126])), (OK, whole, Some((280, 140)))),
            (
                bbox(json!([0.5, 0.5, 0.6, 0.9])),
                (OK, "\nHere is the cropped image (Image Size: 84x84):", Some((84, 84))),
            ),
            (bbox(json!([0.5, 0.5, 0.5, 0.5])), (ERROR, &failed("Cropped image is too small: 56x28"), None)),
            (bbox(json!([0.9, 0.5, 0.2, 0.5])), (ERROR, &failed("Coordinate 'right' is less than 'left'"), None)),
            (
                bbox(json!([1, 2])),
                (
                    ERROR,
                    &failed("Execution Error: `bbox_2d` is [1, 2]; give a list of 4 numbers [x1, y1, x2, y2]."),
                    None,
                ),
            ),
            (
                json!({"bbox_2d": [0, 0, 1, 1]}),
                (
                    ERROR,
                    &failed("Execution Error: `target_image` is missing; give the number of an image, from 1 on."),
                    None,
                ),
            ),
        ],
    );
    let crop = CropImageNormalized::new(CropImageNormalizedSettings { video: true, ..Default::default() }).unwrap();
    let range = |range: &str, target: i64| {
        failed(&format!("{wrong}{range}, but the current argument `target_image={target}`."))
    };
    check(
        &crop,
        &trajectory(&[&made, &old], &[]),
        &[
            (target(2), (OK, whole, Some((280, 140)))),
            (target(3), (ERROR, &range("**from** the video within [1,2]", 3), None)),
        ],
    );
    check(
        &crop,
        &trajectory(&[&made, &made, &made], &[&old]),
        &[
            (target(2), (OK, whole, Some((280, 140)))),
            (target(1), (ERROR, &range("within range [2,2]", 1), None)),
            (target(3), (ERROR, &range("within range [2,2]", 3), None)),
        ],
    );
    let narrow = trajectory(&[&picture(8000, 30, true)], &[]);
    let crop = CropImageNormalized::new(Default::default()).unwrap();
    let text = failed("absolute aspect ratio must be smaller than 200, got 266.6666666666667");
    check(&crop, &narrow, &[(target(1), (ERROR, &text, None))]);
    let settings = CropImageNormalizedSettings { padding: -0.1, ..Default::default() };
    assert_eq!(CropImageNormalized::new(settings).unwrap_err(), "padding is -0.1: give a number from 0 to 1");
}

#[test]
fn frames_of_a_video_are_selected_by_number() {
    let frames: Vec<Arc<RgbImage>> = (0..9).map(|number| picture(140 + 28 * number, 140, true)).collect();
    let frames: Vec<&Arc<RgbImage>> = frames.iter().collect();
    let images = trajectory(&frames, &[frames[0]]);
    let settings = SelectFramesSettings { video: Some(true), ..Default::default() };
    let select = SelectFrames::new(settings.clone()).unwrap();
    let output = call(&select, &json!({"target_frames": [3, 1, 3]}), &images);
    assert_eq!(output.text, "\nHere are the selected frames (Frame Size: 196x140, Numbered 3 to 5):");
    let pixels: Vec<&Arc<RgbImage>> = output.images.iter().map(|image| &image.pixels).collect();
    assert!(pixels.iter().zip([2, 0, 2]).all(|(shown, number)| Arc::ptr_eq(shown, frames[number])), "none is copied");
    let failed = |why: &str| format!("\nExecution error:\n{why}\n");
    let out_of_range = |given: &str| {
        failed(&format!(
            "Execution Error: There are 9 frames numbered in range [1,9]. Your selection `target_frames={given}` is out of range."
        ))
    };
    let too_many = "Execution Error: You have selected 9 frames in total. Think again which frames you need to check in details (no more than 8 frames)";
    check(
        &select,
        &images,
        &[
            (json!({"target_frames": [1, 10]}), (ERROR, &out_of_range("[1, 10]"), None)),
            (json!({"target_frames": [0]}), (ERROR, &out_of_range("[0]"), None)),
            (json!({"target_frames": []}), (ERROR, &out_of_range("[]"), None)),
            (json!({"target_frames": [1, 2, 3, 4, 5, 6, 7, 8, 9]}), (ERROR, &failed(too_many), None)),
            (
                json!({"target_frames": ["a"]}),
                (ERROR, &failed("Execution Error: `target_frames` is ['a']; give a list of whole numbers."), None),
            ),
            (
                json!({}),
                (ERROR, &failed("Execution Error: `target_frames` is missing; give a list of whole numbers."), None),
            ),
        ],
    );
    let large = SelectFrames::new(SelectFramesSettings { max_pixels: 10_000, ..settings }).unwrap();
    let text = "\nHere are the selected frames (Frame Size: 84x84, Numbered 3 to 3):";
    check(&large, &images, &[(json!({"target_frames": [1]}), (OK, text, Some((84, 84))))]);
    let several = SelectFrames::new(Default::default()).unwrap();
    let text = "\nHere are the selected frames (Frame Size: 140x140, Numbered 11 to 11):";
    check(&several, &images, &[(json!({"target_frames": [1]}), (OK, text, Some((140, 140))))]);
    let still = SelectFrames::new(SelectFramesSettings { video: Some(false), ..Default::default() }).unwrap();
    let text = "Execution Error: You attempted to `select_frames` from **image** not **video**. You should use `crop_image_normalized` instead for inspecting **image**.";
    check(&still, &images, &[(json!({"target_frames": [1]}), (ERROR, &failed(text), None))]);
    let error = SelectFrames::new(SelectFramesSettings { max_pixels: 700, ..Default::default() }).unwrap_err();
    assert_eq!(error, "max_pixels is 700: give a whole number from 784 to 67108864");
}
