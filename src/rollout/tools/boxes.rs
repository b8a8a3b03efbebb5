//! Boxes that a model writes, as four numbers of JSON, and what tools make of them: pure functions on left, top, right and bottom. Sizes are
//! width and height in pixels.

use serde_json::Value;

/// Left, top, right and bottom, in the unit that the function says.
pub type Area = [f64; 4];

/// The box that an argument holds: a list of four numbers.
pub fn read(value: Option<&Value>) -> Option<Area> {
    let numbers: Option<Vec<f64>> = value?.as_array()?.iter().map(Value::as_f64).collect();
    numbers?.try_into().ok()
}

/// Width and height; negative where the box is the wrong way round.
pub fn sides([left, top, right, bottom]: Area) -> (f64, f64) {
    (right - left, bottom - top)
}

/// The longer side over the shorter one; infinite where the box is empty or the wrong way round.
pub fn aspect(area: Area) -> f64 {
    let (width, height) = sides(area);
    let shorter = width.min(height);
    if shorter > 0.0 { width.max(height) / shorter } else { f64::INFINITY }
}

/// The part of a box of pixels that lies within a picture. One that lies beside it becomes the wrong way round.
pub fn clamped([left, top, right, bottom]: Area, (width, height): (u32, u32)) -> Area {
    [left.max(0.0), top.max(0.0), right.min(width.into()), bottom.min(height.into())]
}

/// A box in a frame of one width and height, in another: what is relative to 1 or 1000 in pixels, or pixels of a picture as the model saw it
/// in those of the picture as it came.
pub fn rescaled(area: Area, (from_width, from_height): (f64, f64), (width, height): (u32, u32)) -> Area {
    let (wide, high) = (f64::from(width), f64::from(height));
    let [left, top, right, bottom] = area;
    [left / from_width * wide, top / from_height * high, right / from_width * wide, bottom / from_height * high]
}

/// A box of pixels within a picture, grown about its centre at its aspect until the shorter side is `least` pixels, made smaller again where
/// it is larger than the picture, and moved into it; whole pixels around it. (`_maybe_resize_bbox` of verl's `image_zoom_in_tool.py`; what
/// rounding takes out of the picture, by a pixel at most, is left to [`pixels`].)
pub fn grown(area: Area, least: f64, (width, height): (u32, u32)) -> Area {
    let (picture_wide, picture_high) = (f64::from(width), f64::from(height));
    let (own_wide, own_high) = sides(area);
    let [left, top, right, bottom] = area;
    let ratio = least / own_wide.min(own_high);
    let (mut wide, mut high) = (own_wide * ratio, own_high * ratio);
    if wide > picture_wide {
        high *= picture_wide / wide;
        wide = picture_wide;
    }
    if high > picture_high {
        wide *= picture_high / high;
        high = picture_high;
    }
    let start = |middle: f64, side: f64, picture: f64| {
        let start = (middle - side / 2.0).max(0.0);
        if start + side > picture { picture - side } else { start }
    };
    let left = start((left + right) / 2.0, wide, picture_wide);
    let top = start((top + bottom) / 2.0, high, picture_high);
    [left.floor(), top.floor(), (left + wide).ceil(), (top + high).ceil()]
}

/// The whole pixels of a box as Pillow's `Image.crop` takes them: each side rounded, halves to the even number. What lies beside the picture
/// is cut off, where Pillow makes it black. There may be none.
///
/// # Errors
/// When the box is the wrong way round, in Pillow's words.
pub fn rounded(area: Area, (width, height): (u32, u32)) -> Result<[u32; 4], String> {
    if area[2] < area[0] {
        return Err("Coordinate 'right' is less than 'left'".to_owned());
    }
    if area[3] < area[1] {
        return Err("Coordinate 'lower' is less than 'upper'".to_owned());
    }
    let side = |side: usize| area[side].round_ties_even().clamp(0.0, [width, height][side % 2].into()) as u32;
    Ok([side(0), side(1), side(2), side(3)])
}

/// The whole pixels of a box, of which there is at least one.
///
/// # Errors
/// As [`rounded`]; also when the box has no pixel of the picture.
pub fn pixels(area: Area, (width, height): (u32, u32)) -> Result<[u32; 4], String> {
    let part = rounded(area, (width, height))?;
    if part[0] == part[2] || part[1] == part[3] {
        let [left, top, right, bottom] = area;
        return Err(format!(
            "the box [{left}, {top}, {right}, {bottom}] in pixels has no pixel of the image of {width}x{height}"
        ));
    }
    Ok(part)
}

/// The size (width, height) at which qwen-vl-utils' `smart_resize` shows a part of a picture: multiples of `factor`, about `min_pixels` to
/// `max_pixels` in all. Where enlarging leads beyond `max_pixels`, it is that of the largest size below.
pub fn shown_size((width, height): (f64, f64), factor: f64, min_pixels: u64, max_pixels: u64) -> (f64, f64) {
    let (least, most) = (min_pixels as f64, max_pixels as f64);
    let area = width * height;
    let within = |(wide, high): (f64, f64)| wide * high <= most;
    let shrunk = || {
        let beta = (area / most).sqrt();
        let side = |side: f64| ((side / beta / factor).floor() * factor).max(factor);
        (side(width), side(height))
    };
    let side = |side: f64| ((side / factor).round_ties_even() * factor).max(factor);
    let rounded = (side(width), side(height));
    if !within(rounded) {
        return shrunk();
    }
    if rounded.0 * rounded.1 >= least {
        return rounded;
    }
    let beta = (least / area).sqrt();
    let side = |side: f64| (side * beta / factor).ceil() * factor;
    let grown = (side(width), side(height));
    if within(grown) { grown } else { shrunk() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_list_of_four_numbers_is_a_box() {
        assert_eq!(read(Some(&json!([1, 2.5, -3, 4e2]))), Some([1.0, 2.5, -3.0, 400.0]));
        assert_eq!(read(None), None);
        for other in
            [json!([1, 2, 3]), json!([1, 2, 3, 4, 5]), json!([1, 2, 3, "4"]), json!("[1, 2, 3, 4]"), json!(null)]
        {
            assert_eq!(read(Some(&other)), None, "{other}");
        }
    }

    #[test]
    fn boxes_are_cut_measured_and_rescaled() {
        assert_eq!(clamped([-5.0, 3.0, 50.0, 99.0], (40, 30)), [0.0, 3.0, 40.0, 30.0]);
        assert_eq!(sides([1.0, 2.0, 5.0, 1.0]), (4.0, -1.0));
        assert_eq!(aspect([0.0, 0.0, 2.0, 8.0]), 4.0);
        assert_eq!(aspect([0.0, 0.0, 0.0, 8.0]), f64::INFINITY);
        assert_eq!(aspect([9.0, 0.0, 1.0, 8.0]), f64::INFINITY);
        assert_eq!(rescaled([100.0, 500.0, 1000.0, 250.0], (1000.0, 1000.0), (640, 480)), [64.0, 240.0, 640.0, 120.0]);
        assert_eq!(rescaled([10.0, 10.0, 20.0, 14.0], (40.0, 28.0), (80, 280)), [20.0, 100.0, 40.0, 140.0]);
    }

    #[test]
    fn a_small_box_grows_about_its_centre_and_stays_in_the_picture() {
        let size = (100, 80);
        assert_eq!(grown([40.0, 40.0, 54.0, 47.0], 28.0, size), [19.0, 29.0, 75.0, 58.0]);
        assert_eq!(grown([0.0, 70.0, 10.0, 80.0], 28.0, size), [0.0, 52.0, 28.0, 80.0]);
        assert_eq!(grown([0.0, 40.0, 50.0, 41.0], 28.0, size), [0.0, 39.0, 100.0, 42.0], "no wider than the picture");
        assert_eq!(grown([40.0, 10.0, 41.0, 60.0], 28.0, size), [39.0, 0.0, 42.0, 80.0], "no higher than the picture");
    }

    #[test]
    fn whole_pixels_are_those_of_pillow() {
        let size = (40, 30);
        assert_eq!(pixels([0.5, 1.5, 20.4, 20.6], size), Ok([0, 2, 20, 21]));
        assert_eq!(pixels([-9.0, 3.0, 41.0, 31.0], size), Ok([0, 3, 40, 30]));
        assert_eq!(rounded([5.0, 9.0, 5.4, 12.0], size), Ok([5, 9, 5, 12]));
        for (area, part) in [
            ([5.0, 0.0, 4.0, 9.0], "'right' is less than 'left'"),
            ([5.0, 9.0, 6.0, 0.0], "'lower' is less than 'upper'"),
            ([5.0, 9.0, 5.4, 12.0], "[5, 9, 5.4, 12] in pixels has no pixel of the image of 40x30"),
            ([50.0, 0.0, 60.0, 9.0], "has no pixel"),
            ([0.0, -1e300, 60.0, -4.0], "has no pixel"),
        ] {
            let error = pixels(area, size).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn sizes_are_those_of_qwen_vl_utils() {
        let shown = |width, height| shown_size((width, height), 32.0, 262_144, 12_845_056);
        assert_eq!(shown(100.0, 50.0), (736.0, 384.0));
        assert_eq!(shown(1000.0, 1000.0), (992.0, 992.0));
        assert_eq!(shown(16_000.0, 3000.0), (8256.0, 1536.0));
        assert_eq!(shown_size((3.0, 4.0), 32.0, 1, 1024), (32.0, 32.0));
        assert_eq!(shown_size((100.0, 100.0), 32.0, 16_384, 16_384), (128.0, 128.0));
        assert_eq!(shown_size((100.0, 90.0), 32.0, 16_384, 16_384), (128.0, 96.0), "not above the most");
    }

    proptest! {
        #[test]
        fn any_numbers_give_a_part_of_the_picture_or_an_error(
            area in prop::array::uniform4(prop_oneof![-100.0..300.0, any::<f64>()]),
            size in (1u32..200, 1u32..200),
        ) {
            let area = clamped(area, size);
            for area in [area, grown(area, 28.0, size)] {
                if let Ok([left, top, right, bottom]) = pixels(area, size) {
                    prop_assert!(left < right && right <= size.0 && top < bottom && bottom <= size.1);
                }
            }
        }
    }
}
