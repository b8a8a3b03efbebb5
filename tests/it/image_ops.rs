//! Operations on pictures against Pillow (`tests/golden/image_ops`, made by `tools/golden/image_ops.py`): all results are equal bit for bit, on 100
//! pictures for each operation. And against odd arguments.

use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use serde_json::Value;
use thyme_engine::image_ops::{
    Direction, Filter, ImageOpError, Interpolation, Line, Rotation, brightness, contrast, crop, draw_lines,
    draw_rectangle, flip_horizontal, flip_vertical, gaussian_blur, greyscale, resize, rotate, sharpness, thumbnail,
};

use crate::support::noise::noise;

const FILTERS: [(&str, Filter); 4] = [
    ("nearest", Filter::Nearest),
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos),
];
const INTERPOLATIONS: [(&str, Interpolation); 3] =
    [("nearest", Interpolation::Nearest), ("bilinear", Interpolation::Bilinear), ("bicubic", Interpolation::Bicubic)];

type Made = Result<Arc<RgbImage>, ImageOpError>;

fn picture(width: u32, height: u32, smooth: bool) -> Arc<RgbImage> {
    let levels = noise(height as usize, width as usize, smooth);
    Arc::new(RgbImage::from_raw(width, height, levels).unwrap())
}

/// The CRC-32 of width, height and bytes.
fn fingerprint(picture: &RgbImage) -> u64 {
    let mut crc = flate2::Crc::new();
    crc.update(&picture.width().to_le_bytes());
    crc.update(&picture.height().to_le_bytes());
    crc.update(picture.as_raw());
    crc.sum().into()
}

/// Holds an operation against the cases of that name.
fn compare(name: &str, operation: impl Fn(&Arc<RgbImage>, &[Value]) -> Made) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image_ops/image_ops.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden[name].as_array().unwrap();
    assert!(cases.len() >= 100);
    for case in cases {
        let [width, height, smooth, arguments @ .., expected] = case.as_array().unwrap().as_slice() else { panic!() };
        let old = picture(whole(width), whole(height), smooth.as_bool().unwrap());
        let new = operation(&old, arguments).unwrap_or_else(|error| panic!("{name} {case}: {error}"));
        assert_eq!(fingerprint(&new), expected.as_u64().unwrap(), "{name} {case}: {}x{}", new.width(), new.height());
    }
}

fn whole(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn area(values: &[Value]) -> [u32; 4] {
    std::array::from_fn(|side| whole(&values[side]))
}

#[test]
fn crops_equal_those_of_pillow_bit_for_bit() {
    compare("crop", |picture, arguments| crop(picture, area(arguments)));
}

#[test]
fn resized_pictures_equal_those_of_pillow_bit_for_bit_with_each_filter() {
    for (name, filter) in FILTERS {
        compare(&format!("resize {name}"), |picture, size| resize(picture, whole(&size[0]), whole(&size[1]), filter));
    }
}

#[test]
fn thumbnails_equal_those_of_pillow_bit_for_bit_with_each_filter() {
    for (name, filter) in FILTERS {
        compare(&format!("thumbnail {name}"), |picture, most| {
            thumbnail(picture, whole(&most[0]), whole(&most[1]), filter)
        });
    }
}

#[test]
fn rotated_pictures_equal_those_of_pillow_bit_for_bit_with_each_interpolation() {
    for (name, interpolation) in INTERPOLATIONS {
        compare(&format!("rotate {name}"), |picture, arguments| {
            let fill = Rgb(std::array::from_fn(|channel| whole(&arguments[2 + channel]) as u8));
            let expand = arguments[1].as_bool().unwrap();
            rotate(picture, &Rotation { angle: number(&arguments[0]), expand, fill, interpolation })
        });
    }
}

#[test]
fn flipped_and_grey_pictures_equal_those_of_pillow_bit_for_bit() {
    compare("flip horizontal", |picture, _| Ok(flip_horizontal(picture)));
    compare("flip vertical", |picture, _| Ok(flip_vertical(picture)));
    compare("greyscale", |picture, _| Ok(greyscale(picture)));
}

#[test]
fn enhanced_pictures_equal_those_of_pillow_bit_for_bit() {
    compare("brightness", |picture, factor| brightness(picture, number(&factor[0])));
    compare("contrast", |picture, factor| contrast(picture, number(&factor[0])));
    compare("sharpness", |picture, factor| sharpness(picture, number(&factor[0])));
}

#[test]
fn blurred_pictures_equal_those_of_pillow_bit_for_bit() {
    compare("gaussian blur", |picture, radius| gaussian_blur(picture, number(&radius[0])));
}

#[test]
fn lines_keep_their_rule_and_outlines_equal_those_of_pillow_bit_for_bit() {
    compare("line", |picture, arguments| {
        let is_vertical = arguments[0].as_bool().unwrap();
        let direction = if is_vertical { Direction::Vertical } else { Direction::Horizontal };
        let line = Line::new(direction, number(&arguments[1]));
        let (width, is_dashed) = (whole(&arguments[2]), arguments[3].as_bool().unwrap());
        draw_lines(picture, &[Line { width, is_dashed, ..line }])
    });
    let colour = Line::new(Direction::Horizontal, 0.0).colour;
    compare("rectangle", |picture, arguments| draw_rectangle(picture, area(arguments), whole(&arguments[4]), colour));
}

#[test]
fn what_changes_no_pixel_copies_none() {
    for (width, height) in [(1, 1), (1, 40), (40, 1), (17, 9)] {
        let old = picture(width, height, false);
        let rotation =
            |angle| Rotation { angle, expand: true, fill: Rgb([0; 3]), interpolation: Interpolation::Bicubic };
        let line = Line::new(Direction::Vertical, 50.0);
        let mut unchanged = vec![
            crop(&old, [0, 0, width, height]),
            rotate(&old, &rotation(0.0)),
            rotate(&old, &rotation(-360.0)),
            rotate(&old, &rotation(1080.0)),
            brightness(&old, 1.0),
            contrast(&old, 1.0),
            sharpness(&old, 1.0),
            gaussian_blur(&old, 0.0),
            draw_lines(&old, &[Line { width: 0, ..line }]),
            draw_rectangle(&old, [0, 0, width, height], 0, line.colour),
        ];
        for (_, filter) in FILTERS {
            unchanged.push(resize(&old, width, height, filter));
            unchanged.push(thumbnail(&old, width, height, filter));
            unchanged.push(thumbnail(&old, u32::MAX, height + 1, filter));
        }
        for (index, new) in unchanged.into_iter().enumerate() {
            assert!(Arc::ptr_eq(&old, &new.unwrap()), "operation {index} copied a picture of {width}x{height}");
        }
    }
}

#[test]
fn refusals_name_the_value_and_the_remedy() {
    let old = picture(30, 20, false);
    let rotation = |angle| Rotation { angle, expand: true, fill: Rgb([0; 3]), interpolation: Interpolation::Nearest };
    let long = Arc::new(RgbImage::new(16_384, 200));
    let refusals = [
        (
            crop(&old, [3, 4, 31, 9]),
            "[3, 4, 31, 9] is not a part of the picture of 30x20 pixels; give [left, top, right, bottom]",
        ),
        (crop(&old, [9, 4, 9, 9]), "0 <= left < right <= 30 and 0 <= top < bottom <= 20"),
        (draw_rectangle(&old, [0, 20, 1, 21], 2, Rgb([0; 3])), "[0, 20, 1, 21] is not a part"),
        (resize(&old, 0, 5, Filter::Bicubic), "a picture of 0x5 pixels cannot be made; give 1 to 16384 a side"),
        (resize(&old, 16_385, 5, Filter::Nearest), "a picture of 16385x5 pixels cannot be made"),
        (resize(&old, 16_000, 16_000, Filter::Nearest), "at most 178956970 in all"),
        (thumbnail(&old, 7, 0, Filter::Bicubic), "a picture of 7x0 pixels cannot be made"),
        (rotate(&old, &rotation(f64::NAN)), "the angle is NaN; give a finite number of degrees"),
        (rotate(&long, &rotation(0.5)), "a picture of 16386x344 pixels cannot be made"),
        (brightness(&old, f64::INFINITY), "the factor is inf; give a number of at most 3.4e38"),
        (contrast(&old, 1e39), "the factor is 1000000000000000000000000000000000000000; give"),
        (sharpness(&old, f64::NAN), "the factor is NaN"),
        (gaussian_blur(&old, -0.5), "the radius is -0.5; give 0 to 2147483520 pixels"),
        (gaussian_blur(&old, 3e9), "the radius is 3000000000"),
        (
            draw_lines(&old, &[Line::new(Direction::Vertical, 100.5)]),
            "the place of the line is 100.5; give 0 to 100 percent",
        ),
        (
            resize(&Arc::new(RgbImage::new(0, 7)), 5, 5, Filter::Bicubic),
            "the picture is 0x7 pixels; give one with at least 1 a side",
        ),
    ];
    for (refusal, part) in refusals {
        let message = refusal.unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// Numbers, most of them of a usual size.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![4 => -1000.0..1000.0, 2 => any::<f64>(), 1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, 1e9, 2_147_483_520.0])]
}

/// Lengths, some of them too large.
fn any_length() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..60, 1 => 16_385u32.., 1 => Just(u32::MAX)]
}

proptest! {
    #[test]
    fn no_arguments_make_an_operation_panic(
        (width, height) in (0u32..40, 0u32..40),
        lengths in prop::array::uniform4(any_length()),
        value in any_number(),
        (first, second) in any::<(bool, bool)>(),
        kind in 0usize..4,
    ) {
        let old = picture(width, height, first);
        let filter = FILTERS[kind].1;
        let interpolation = INTERPOLATIONS[kind % 3].1;
        let direction = if first { Direction::Vertical } else { Direction::Horizontal };
        let line = Line { width: lengths[0], is_dashed: second, ..Line::new(direction, value) };
        let rotation = Rotation { angle: value, expand: second, fill: Rgb([255; 3]), interpolation };
        let sizes = [
            crop(&old, lengths).map(|new| new.dimensions() == (lengths[2] - lengths[0], lengths[3] - lengths[1])),
            resize(&old, lengths[0], lengths[1], filter).map(|new| new.dimensions() == (lengths[0], lengths[1])),
            thumbnail(&old, lengths[0], lengths[1], filter).map(|new| new.width() <= width.max(1) && new.height() <= height.max(1)),
            rotate(&old, &rotation).map(|new| second || new.dimensions() == (width, height)),
            draw_lines(&old, &[line]).map(|new| new.dimensions() == (width, height)),
            draw_rectangle(&old, lengths, lengths[0], line.colour).map(|new| new.dimensions() == (width, height)),
            brightness(&old, value).map(|new| new.dimensions() == (width, height)),
            contrast(&old, value).map(|new| new.dimensions() == (width, height)),
            sharpness(&old, value).map(|new| new.dimensions() == (width, height)),
            gaussian_blur(&old, value).map(|new| new.dimensions() == (width, height)),
            Ok(greyscale(&old).dimensions() == (width, height)),
            Ok(flip_horizontal(&flip_horizontal(&old)) == old),
            Ok(flip_vertical(&flip_vertical(&old)) == old),
        ];
        for (index, size) in sizes.into_iter().enumerate() {
            prop_assert!(size.unwrap_or(true), "operation {}", index);
        }
    }

    #[test]
    fn four_quarter_turns_are_none(width in 1u32..40, height in 1u32..40, angle in prop::sample::select(vec![90.0, -90.0, 450.0])) {
        let old = picture(width, height, false);
        let rotation = Rotation { angle, expand: true, fill: Rgb([0; 3]), interpolation: Interpolation::Nearest };
        let turned = (0..4).fold(old.clone(), |picture, _| rotate(&picture, &rotation).unwrap());
        prop_assert_eq!(turned, old);
    }
}
