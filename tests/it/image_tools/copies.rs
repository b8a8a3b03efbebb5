//! A picture has one buffer, from the task to the tools, the trajectory and the rewards: what is made is allocated, and no picture is copied.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use serde_json::{Value, json};
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::tool::{CallStatus, Subject, ToolOutput};

use super::{picture, trajectory};
use crate::support::allocations::{Taken, counted};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
/// Bytes of the picture.
const PICTURE: usize = WIDTH as usize * HEIGHT as usize * 3;
/// Bytes that a call may take for its arguments and its texts.
const REST: usize = 32 << 10;

/// The output of a call on the picture, and what it took. A first call has set up what tools set up once.
fn taken(environment: Option<&str>, tool: &str, arguments: &Value, image: &Arc<RgbImage>) -> (ToolOutput, Taken) {
    let tool = Registry::default().tool(environment, &(tool.to_owned(), toml::Table::new())).unwrap();
    let subject = Subject { images: &[], folder: Path::new(""), image_name: "image.png" };
    let mut session = tool.open(&subject, 1).unwrap().remove(0);
    let (request, images) = (tool.request(arguments).unwrap(), trajectory(&[image], &[]));
    session.run(&request, &images).unwrap();
    let (output, taken) = counted(|| session.run(&request, &images).unwrap());
    assert_eq!(output.status, CallStatus::Ok, "{} {arguments}: {}", tool.name(), output.text);
    (output, taken)
}

#[test]
fn a_crop_takes_its_own_bytes_and_no_picture() {
    let image = picture(WIDTH, HEIGHT, true);
    let crop = 100 * 80 * 3;
    for (environment, tool, arguments) in [
        (None, "crop_image", json!({"x": 30, "y": 40, "width": 100, "height": 80})),
        (Some("zoom_in"), "image_zoom_in_tool", json!({"bbox_2d": [30, 40, 130, 120]})),
        (None, "Crop", json!({"image": "img_1", "param": "[30, 40, 130, 120]"})),
    ] {
        let (output, Taken { bytes, largest }) = taken(environment, tool, &arguments, &image);
        assert_eq!(output.images[0].pixels.as_raw().capacity(), crop, "{tool}");
        assert!((crop..crop + REST).contains(&bytes), "{tool} takes {bytes} bytes, its crop has {crop}");
        assert_eq!(largest, crop, "{tool}");
    }
    // A crop that is shown larger or smaller: the picture itself is in no buffer but its own.
    for (tool, arguments) in [
        ("image_zoom_in_tool", json!({"bbox_2d": [100, 100, 200, 200], "label": "a", "img_idx": 0})),
        ("crop_image_normalized", json!({"bbox_2d": [0.2, 0.2, 0.3, 0.3], "target_image": 1})),
    ] {
        let (output, Taken { largest, .. }) = taken(None, tool, &arguments, &image);
        assert_eq!(output.images.len(), 1);
        assert!(largest < PICTURE, "{tool} takes {largest} bytes at once, the picture has {PICTURE}");
    }
}

#[test]
fn a_tool_that_changes_nothing_takes_no_picture_and_gives_the_same_one() {
    let image = picture(WIDTH, HEIGHT, true);
    for (environment, tool, arguments) in [
        (None, "crop_image", json!({"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT})),
        (None, "zoom_image", json!({"zoom_factor": 1})),
        (None, "rotate_image", json!({"angle": 360})),
        (None, "adjust_brightness", json!({"factor": 1})),
        (None, "adjust_contrast", json!({"factor": 1})),
        (None, "apply_blur", json!({"radius": 0})),
        (None, "apply_sharpen", json!({"factor": 0})),
        (None, "resize_image", json!({"width": WIDTH, "height": HEIGHT})),
        (None, "resize_image", json!({"width": WIDTH, "height": HEIGHT, "maintain_aspect": false})),
        (None, "image_rotate_tool", json!({"angle": 0})),
        (None, "Crop", json!({"image": "img_1", "param": format!("[0, 0, {WIDTH}, {HEIGHT}]")})),
        (Some("zoom_in"), "image_zoom_in_tool", json!({"bbox_2d": [0, 0, WIDTH, HEIGHT]})),
        // 640 and 480 are multiples of 32, so this one is shown at its size.
        (None, "image_zoom_in_tool", json!({"bbox_2d": [0, 0, 1000, 1000], "label": "all", "img_idx": 0})),
    ] {
        let (output, Taken { bytes, .. }) = taken(environment, tool, &arguments, &image);
        assert!(Arc::ptr_eq(&output.images[0].pixels, &image), "{tool} {arguments} gives the picture itself");
        assert!(bytes < REST, "{tool} {arguments} takes {bytes} bytes, the picture has {PICTURE}");
    }
    let (output, Taken { bytes, .. }) = taken(None, "get_image_info", &json!({}), &image);
    assert!(output.images.is_empty() && bytes < REST, "get_image_info takes {bytes} bytes");
}

#[test]
fn an_edit_takes_one_picture() {
    let image = picture(WIDTH, HEIGHT, true);
    for (tool, arguments) in [
        ("rotate_image", json!({"angle": 180})),
        ("flip_image", json!({"direction": "horizontal"})),
        ("flip_image", json!({"direction": "vertical"})),
        ("adjust_brightness", json!({"factor": 1.5})),
        ("adjust_contrast", json!({"factor": 1.5})),
        ("apply_sharpen", json!({})),
        ("convert_grayscale", json!({})),
        ("image_rotate_tool", json!({"angle": 30})),
        ("DrawHorizontalLineByY", json!({"image": "img_1", "param": "y1=20 y2=40 y3=60"})),
        ("DrawVerticalLineByX", json!({"image": "img_1", "param": "x1=20 x2=40 x3=60"})),
    ] {
        let (output, Taken { bytes, .. }) = taken(None, tool, &arguments, &image);
        assert!(!Arc::ptr_eq(&output.images[0].pixels, &image));
        let range = PICTURE..PICTURE + REST;
        assert!(range.contains(&bytes), "{tool} {arguments} takes {bytes} bytes, the picture has {PICTURE}");
    }
}
