//! `image_zoom_in_tool` of verl and DeepEyes, and `image_rotate_tool`.

use std::sync::Arc;

use serde_json::json;
use thyme_engine::rollout::tools::zoom_in::{ImageRotate, SizeRule, ZoomIn, ZoomInSettings};

use super::{ERROR, OK, call, check, compare, picture, trajectory};

#[test]
fn crops_and_rotations_equal_those_of_pillow_bit_for_bit() {
    for (name, size_rule) in [("zoom in verl", SizeRule::Verl), ("zoom in deepeyes", SizeRule::DeepEyes)] {
        compare(
            name,
            |_| ZoomIn::new(ZoomInSettings { size_rule, ..ZoomInSettings::default() }),
            |area| json!({"bbox_2d": area}),
        );
    }
    compare("rotate", |_| ImageRotate, |angle| json!({"angle": angle}));
}

#[test]
fn zooms_and_rotations_say_what_the_originals_say() {
    let (old, new) = (picture(200, 100, true), picture(50, 50, true));
    let images = trajectory(&[&old], &[&new]);
    let missing = "Error: bbox_2d parameter is missing or not a list of 4 numbers.";
    let verl = ZoomIn::new(Default::default());
    let invalid = |given: &str| {
        format!(
            "Error: The specified bounding box {given} is invalid or results in a crop smaller than the minimum size of 28x28."
        )
    };
    check(
        &verl,
        &images,
        &[
            (
                json!({"bbox_2d": [10, 20, 60, 70]}),
                (OK, "Zoomed in on the image to the region [10, 20, 60, 70].", Some((50, 50))),
            ),
            (
                json!({"bbox_2d": [10.0, 20.5, 60, 1e16], "label": "a cup"}),
                (OK, "Zoomed in on the image to the region [10.0, 20.5, 60, 1e+16] with label a cup.", Some((50, 80))),
            ),
            (
                json!({"bbox_2d": [50, 50, 60, 60], "label": ""}),
                (OK, "Zoomed in on the image to the region [50, 50, 60, 60].", Some((28, 28))),
            ),
            (json!({}), (ERROR, missing, None)),
            (json!({"bbox_2d": [1, 2, 3]}), (ERROR, missing, None)),
            (json!({"bbox_2d": "[1, 2, 3, 4]"}), (ERROR, missing, None)),
            (json!({"bbox_2d": [60, 20, 10, 70]}), (ERROR, &invalid("[60, 20, 10, 70]"), None)),
            (json!({"bbox_2d": [0, 5, 200, 6]}), (ERROR, &invalid("[0, 5, 200, 6]"), None)),
            (json!({"bbox_2d": [0, 5, 60, 6]}), (ERROR, &invalid("[0, 5, 60, 6]"), None)),
        ],
    );
    let no_image = "Error processing image zoom-in: there is no image 0: the trajectory has 0, counted from 0";
    check(&verl, &trajectory(&[], &[]), &[(json!({"bbox_2d": [1, 2, 40, 40]}), (ERROR, no_image, None))]);
    let deepeyes = ZoomIn::new(ZoomInSettings { size_rule: SizeRule::DeepEyes, ..ZoomInSettings::default() });
    check(
        &deepeyes,
        &images,
        &[
            (json!({"bbox_2d": [10, 20, 41, 300], "label": "a cup"}), (OK, "", Some((31, 80)))),
            (json!({"bbox_2d": [10, 20, 40, 70]}), (ERROR, "Error: ZOOM IN ARGUMENTS ARE INVALID", None)),
            (json!({"bbox": [10, 20, 60, 70]}), (ERROR, "Error: ZOOM IN ARGUMENTS ARE INVALID", None)),
        ],
    );
    check(
        &ImageRotate,
        &images,
        &[
            (json!({"angle": 90}), (OK, "", Some((200, 100)))),
            (json!({"angle": 12.5}), (OK, "", Some((200, 100)))),
            (json!({}), (ERROR, "Error: the angle is missing; give a number of degrees", None)),
            (json!({"angle": "up"}), (ERROR, "Error: the angle is up; give a number of degrees", None)),
        ],
    );
    let turned = call(&ImageRotate, &json!({"angle": 90}), &images);
    assert_eq!(turned.images[0].pixels.get_pixel(0, 0).0, [0; 3], "bare corners are black");
    let nothing = call(&ImageRotate, &json!({"angle": 360}), &images);
    assert!(Arc::ptr_eq(&nothing.images[0].pixels, &old), "no pixel changes");
}
