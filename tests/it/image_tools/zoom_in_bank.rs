//! `image_zoom_in_tool` of Qwen-Agent.

use serde_json::{Value, json};
use thyme_engine::rollout::tools::zoom_in_bank::{Coordinates, ZoomInBank, ZoomInBankSettings};

use super::{ERROR, OK, call, check, compare, picture, pixel_limits, trajectory};

#[test]
fn enlarged_crops_equal_those_of_pillow_bit_for_bit() {
    for (name, coordinates) in [
        ("bank relative_1000", Coordinates::Relative1000),
        ("bank relative_1", Coordinates::Relative1),
        ("bank absolute", Coordinates::Absolute),
    ] {
        let tool = |limits: &[Value]| {
            let [min_pixels, max_pixels] = pixel_limits(limits);
            ZoomInBank::new(ZoomInBankSettings { coordinates, min_pixels, max_pixels }).unwrap()
        };
        compare(name, tool, |area| json!({"bbox_2d": area, "label": "it", "img_idx": 0}));
    }
}

#[test]
fn crops_of_the_image_bank_name_any_image_so_far() {
    let (first, second, made) = (picture(200, 100, true), picture(300, 300, true), picture(64, 64, false));
    let images = trajectory(&[&first, &second], &[&made]);
    let tool = ZoomInBank::new(Default::default()).unwrap();
    let arguments = |index: Value| json!({"bbox_2d": [0, 0, 500, 1000], "label": "half", "img_idx": index});
    let range = |given: &str| {
        format!("Error: Invalid input image: img_idx is {given}; there are 3 images, give a whole number from 0 to 2")
    };
    check(
        &tool,
        &images,
        &[
            (arguments(json!(0)), (OK, "", Some((512, 512)))),
            (arguments(json!(1)), (OK, "", Some((384, 736)))),
            (arguments(json!(2.0)), (OK, "", Some((384, 736)))),
            (arguments(json!(-1)), (OK, "", Some((384, 736)))),
            (arguments(json!(3)), (ERROR, &range("3"), None)),
            (arguments(json!(-4)), (ERROR, &range("-4"), None)),
            (arguments(json!("img_1")), (ERROR, &range("img_1"), None)),
            (json!({"bbox_2d": [0, 0, 9, 9], "label": "x"}), (ERROR, "Error: 'img_idx' is a required property", None)),
            (json!({"bbox_2d": [0, 0, 9, 9], "img_idx": 0}), (ERROR, "Error: 'label' is a required property", None)),
            (
                json!({"bbox_2d": [0, 0, 9], "label": "x", "img_idx": 0}),
                (ERROR, "Error: bbox_2d is [0, 0, 9]; give a list of 4 numbers [x1, y1, x2, y2]", None),
            ),
            (
                json!({"bbox_2d": [500, 0, 100, 900], "label": "x", "img_idx": 0}),
                (ERROR, "Tool Execution Error Coordinate 'right' is less than 'left'", None),
            ),
            (
                json!({"bbox_2d": [500, 0, 500, 900], "label": "x", "img_idx": 0}),
                (
                    ERROR,
                    "Tool Execution Error the box [100, 0, 100, 90] in pixels has no pixel of the image of 200x100",
                    None,
                ),
            ),
        ],
    );
    let half = call(&tool, &arguments(json!(-1)), &images).images.remove(0).pixels;
    assert_eq!(half, call(&tool, &arguments(json!(2)), &images).images.remove(0).pixels);
    assert_ne!(half, call(&tool, &arguments(json!(1)), &images).images.remove(0).pixels);
    let limit = |min_pixels, max_pixels| ZoomInBankSettings { min_pixels, max_pixels, ..Default::default() };
    let narrow = ZoomInBank::new(limit(1024, 2048)).unwrap();
    let text = "Tool Execution Error the crop is too narrow: it would be shown with 416x32 pixels, and 2048 in all are allowed";
    let strip = trajectory(&[&picture(3000, 32, true)], &[]);
    check(
        &narrow,
        &strip,
        &[(json!({"bbox_2d": [0, 0, 1000, 1000], "label": "x", "img_idx": 0}), (ERROR, text, None))],
    );
    for (settings, part) in [
        (limit(0, 1023), "max_pixels is 1023: give a whole number from 1024 to 67108864"),
        (limit(0, 1 << 27), "max_pixels is 134217728"),
        (limit(5000, 4000), "min_pixels is 5000: give a whole number of at most max_pixels, 4000"),
    ] {
        let error = ZoomInBank::new(settings).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
