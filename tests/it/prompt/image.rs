//! Pictures: resize, patches, decoding.

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;
use serde_json::{Value, json};
use thyme_engine::prompt::image::{decode_bytes, decode_file, stored_size};
use thyme_engine::prompt::{ImageProblem, ImageSettings, PictureSize, PreparedImage, resize_bicubic, smart_resize};

use super::{golden, numbers};
use crate::support::noise::noise;

fn crc32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    !bytes.into_iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

fn pair(value: &Value) -> (usize, usize) {
    let sides = numbers(value);
    (sides[0] as usize, sides[1] as usize)
}

#[test]
fn resized_pictures_equal_those_of_pillow_bit_for_bit() {
    let golden = golden("image.json");
    let cases = golden["resize"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let (old, new) = (pair(&case["old"]), pair(&case["new"]));
        let picture = noise(old.0, old.1, case["smooth"].as_bool().unwrap());
        let resized = resize_bicubic(&picture, old, new);
        let start: Vec<u32> = resized.iter().take(12).map(|&level| u32::from(level)).collect();
        assert_eq!(start, numbers(&case["start"]), "{old:?} to {new:?}");
        assert_eq!(u64::from(crc32(resized)), case["crc"].as_u64().unwrap(), "{old:?} to {new:?}");
    }
}

#[test]
fn chosen_sizes_equal_those_of_transformers() {
    for case in golden("image.json")["smart_resize"].as_array().unwrap() {
        let inputs = numbers(&Value::Array(case.as_array().unwrap()[..4].to_vec()));
        let size = smart_resize((inputs[0], inputs[1]), 28, inputs[2].into(), inputs[3].into()).ok();
        let expected = (!case[4].is_null()).then(|| pair(&case[4]));
        assert_eq!(size, expected, "{inputs:?}");
    }
}

#[test]
fn prepared_pictures_equal_pixel_values_of_transformers_exactly() {
    for case in golden("image.json")["pixel_values"].as_array().unwrap() {
        let (height, width) = pair(&case["size"]);
        let options = &case["options"];
        let defaults = ImageSettings::default();
        let settings = ImageSettings {
            min_pixels: options["min_pixels"].as_u64().unwrap_or(3136),
            max_pixels: options["max_pixels"].as_u64().unwrap_or(12_845_056),
            patch_size: options["patch_size"].as_u64().map_or(defaults.patch_size, |side| side as usize),
            ..defaults
        };
        let picture = RgbImage::from_raw(width as u32, height as u32, noise(height, width, true)).unwrap();
        let prepared = PreparedImage::prepare(&picture, &settings).unwrap();
        let values = prepared.normalised(&settings);
        assert_eq!(vec![prepared.grid.t, prepared.grid.h, prepared.grid.w], numbers(&case["grid"]));
        assert_eq!(settings.tokens((width as u32, height as u32), None), Ok(prepared.grid.tokens(settings.merge_size)));
        assert_eq!((prepared.original_width, prepared.original_height), (width as u32, height as u32));
        let shape = pair(&case["shape"]);
        assert_eq!(values.len(), shape.0 * shape.1);
        for (value, expected) in values.iter().zip(case["start"].as_array().unwrap()) {
            assert_eq!(f64::from(*value), expected.as_f64().unwrap(), "{case}");
        }
        let crc = crc32(values.iter().flat_map(|value| value.to_le_bytes()));
        assert_eq!(u64::from(crc), case["crc"].as_u64().unwrap(), "{case}");
    }
}

#[test]
fn pictures_of_the_size_that_a_message_asks_for_equal_those_of_qwen_vl_utils() {
    // The limits that qwen-vl-utils has where a message says nothing.
    let settings = ImageSettings { min_pixels: 3136, max_pixels: 12_845_056, ..ImageSettings::default() };
    let golden = golden("image.json");
    for case in golden["part_sizes"].as_array().unwrap() {
        let (height, width) = pair(&case["size"]);
        let picture = RgbImage::from_raw(width as u32, height as u32, noise(height, width, true)).unwrap();
        let mut part = json!({"type": "image", "image": "x.png", "detail": "auto", "text": null});
        part.as_object_mut().unwrap().extend(case["keys"].as_object().unwrap().clone());
        let size = PictureSize::of_part(&part).unwrap();
        assert_eq!(PictureSize::of_part(&json!({"type": "image_url", "image_url": case["keys"]})), Ok(size));
        let prepared = PreparedImage::prepare_at(&picture, &settings, size);
        let Ok(prepared) = prepared else {
            assert!(case["resized"].is_null(), "{case}: {prepared:?}");
            continue;
        };
        assert_eq!((prepared.resized_height, prepared.resized_width), pair(&case["resized"]), "{case}");
        assert_eq!((prepared.original_width, prepared.original_height), (width as u32, height as u32));
        let tokens = settings.tokens((width as u32, height as u32), size);
        assert_eq!(tokens, Ok(prepared.grid.tokens(settings.merge_size)), "{case}");
        let crc = crc32(prepared.normalised(&settings).iter().flat_map(|value| value.to_le_bytes()));
        assert_eq!(u64::from(crc), case["crc"].as_u64().unwrap(), "{case}");
    }
}

#[test]
fn a_size_that_cannot_be_used_is_named() {
    for (keys, key, says) in [
        (json!({"max_pixels": 0}), "max_pixels", "is 0; it must be a whole number between 1 and 178956970"),
        (json!({"max_pixels": "50176"}), "max_pixels", "is \"50176\""),
        (json!({"min_pixels": 1.5}), "min_pixels", "is 1.5"),
        (json!({"min_pixels": -1}), "min_pixels", "is -1"),
        (json!({"min_pixels": 1e300}), "min_pixels", "is 1e+300"),
        (json!({"resized_height": 28}), "resized_height", "no effect without resized_width"),
        (json!({"resized_width": 28}), "resized_width", "no effect without resized_height"),
        (json!({"resized_height": 28, "resized_width": 100000}), "resized_width", "between 1 and 16384"),
        (json!({"resized_height": 28, "resized_width": 28, "max_pixels": 9}), "max_pixels", "leave it or them out"),
        (json!({"max_pixel": 50176}), "max_pixel", "known are min_pixels, max_pixels, resized_height, resized_width"),
        (json!({"image_url": {"url": "x", "fps": 2}}), "image_url.fps", "not known beside a picture"),
        (json!({"image_url": {"url": "x", "max_pixels": 5}, "max_pixels": 6}), "image_url.max_pixels", "given twice"),
    ] {
        let error = PictureSize::of_part(&keys).unwrap_err();
        assert!(error.key == key && error.problem.contains(says), "{keys}: {error}");
    }
    let nothing =
        json!({"type": "image", "image": {"url": "x", "max_pixels": null}, "min_pixels": null, "resized_height": null});
    assert_eq!(PictureSize::of_part(&nothing), Ok(None));
    let settings = ImageSettings { min_pixels: 3136, max_pixels: 12_544, ..ImageSettings::default() };
    let above = PictureSize::of_part(&json!({"min_pixels": 50_176})).unwrap();
    let problem = PreparedImage::prepare_at(&RgbImage::new(9, 9), &settings, above).unwrap_err().to_string();
    assert!(problem.contains("50176") && problem.contains("12544") && problem.contains("in order"), "{problem}");
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A picture of 40x30 whose left half is red and right half blue.
fn halves() -> DynamicImage {
    RgbImage::from_fn(40, 30, |x, _| if x < 20 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }).into()
}

#[test]
fn every_format_decodes_to_the_same_picture() {
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Jpeg] {
        let source = if format == ImageFormat::Gif { halves().into_rgba8().into() } else { halves() };
        let bytes = encoded(&source, format);
        let decoded = decode_bytes(&bytes, "halves").unwrap();
        assert_eq!(decoded.dimensions(), (40, 30));
        assert_eq!(stored_size(Cursor::new(bytes)), Some((40, 30)));
        for (x, expected) in [(2, [255, 0, 0]), (37, [0, 0, 255])] {
            let near =
                decoded.get_pixel(x, 15).0.iter().zip(expected).all(|(&level, wanted)| level.abs_diff(wanted) < 4);
            assert!(near, "{format:?} {:?}", decoded.get_pixel(x, 15));
        }
    }
}

#[test]
fn transparency_is_laid_onto_white_and_grey_becomes_rgb() {
    let colours = [Rgba([255, 0, 0, 255]), Rgba([255, 0, 0, 0]), Rgba([0, 0, 0, 128]), Rgba([10, 20, 30, 77])];
    let layered = RgbaImage::from_fn(4, 2, |x, _| colours[x as usize]);
    let flat = decode_bytes(&encoded(&layered.into(), ImageFormat::Png), "layered").unwrap();
    let levels: Vec<[u8; 3]> = (0..4).map(|x| flat.get_pixel(x, 0).0).collect();
    assert_eq!(levels, [[255, 0, 0], [255, 255, 255], [127, 127, 127], [181, 184, 187]]);
    let grey = DynamicImage::ImageLuma8(image::GrayImage::from_fn(3, 2, |x, _| image::Luma([x as u8 * 100])));
    let grey = decode_bytes(&encoded(&grey, ImageFormat::Png), "grey").unwrap();
    assert_eq!(grey.get_pixel(2, 1).0, [200; 3]);
}

#[test]
fn exif_orientation_is_applied() {
    let mut jpeg = encoded(&halves(), ImageFormat::Jpeg);
    // APP1 with a TIFF header and one entry: orientation (0x0112), a short, 1 value, 6 = turn right.
    let mut exif = b"\xFF\xE1\x00\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0".to_vec();
    exif.extend([0; 4]);
    jpeg.splice(2..2, exif);
    let turned = decode_bytes(&jpeg, "turned").unwrap();
    assert_eq!(turned.dimensions(), (30, 40));
    assert!(turned.get_pixel(15, 2).0[0] > 250 && turned.get_pixel(15, 37).0[2] > 250);
}

#[test]
fn unusable_sizes_are_named_before_any_pixel_is_decoded() {
    let header = |width: u32, height: u32| {
        let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bmp.extend(width.to_le_bytes());
        bmp.extend(height.to_le_bytes());
        bmp.extend(b"\x01\0\x18\0");
        bmp.extend([0; 24]);
        bmp
    };
    let problem = |width, height| decode_bytes(&header(width, height), "x.bmp").unwrap_err().problem;
    assert_eq!(problem(201, 1), ImageProblem::TooNarrow { width: 201, height: 1 });
    assert_eq!(problem(30_000, 30_000), ImageProblem::TooLarge { width: 30_000, height: 30_000 });
    assert_eq!(problem(30_000, 200), ImageProblem::TooLarge { width: 30_000, height: 200 });
    assert_eq!(problem(16_000, 16_000), ImageProblem::TooLarge { width: 16_000, height: 16_000 });
    assert_eq!(problem(1005, 5), ImageProblem::TooNarrow { width: 1005, height: 5 });
    let message = decode_bytes(&header(30_000, 30_000), "big.bmp").unwrap_err().to_string();
    assert!(message.contains("big.bmp") && message.contains("30000x30000") && message.contains("scale it down"));
}

#[test]
fn missing_empty_foreign_and_truncated_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture");
    let message = || decode_file(&path).unwrap_err().to_string();
    assert!(message().contains("picture: cannot be read"));
    std::fs::write(&path, "").unwrap();
    assert!(message().contains("empty"));
    std::fs::write(&path, "no picture at all").unwrap();
    assert!(message().contains("not PNG, JPEG"));
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Jpeg] {
        let bytes = encoded(&halves(), format);
        std::fs::write(&path, &bytes[..bytes.len() * 3 / 4]).unwrap();
        assert!(message().contains("damaged or cut off"), "{format:?}: {}", message());
    }
}

/// Those of `tools/golden/prompt_pictures.py`: what Pillow opens we open, to the same pixels, and the others are refused by name.
#[test]
fn odd_and_damaged_pictures_are_taken_as_pillow_takes_them() {
    let golden = golden("pictures.json");
    let cases = golden["cases"].as_array().unwrap();
    let is_ours = |case: &&Value| !REFUSED_BY_NAME.iter().any(|(name, _)| case["name"] == *name);
    let wrong: Vec<String> = cases.iter().filter(is_ours).filter_map(|case| differs_from_pillow(case).err()).collect();
    assert!(cases.len() > 200 && wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What Pillow opens and we do not, and what we say.
const REFUSED_BY_NAME: [(&str, &str); 4] = [
    ("TIFF", "is not PNG, JPEG, WebP, GIF or BMP; convert it"),
    ("JPEG: no Huffman tables", "huffman"),
    ("JPEG: zeros in place of the last bytes", "the end of the JPEG is missing"),
    // A table's marker.
    ("JPEG damaged 50", "damaged"),
];

#[test]
fn what_is_refused_though_pillow_opens_it_is_named() {
    let golden = golden("pictures.json");
    for (name, reason) in REFUSED_BY_NAME {
        let case = golden["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
        assert!(case["refused"].is_null(), "{name}");
        let bytes = BASE64_STANDARD.decode(case["file"].as_str().unwrap()).unwrap();
        let message = decode_bytes(&bytes, name).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(reason), "{message}");
    }
}

fn differs_from_pillow(case: &Value) -> Result<(), String> {
    let name = case["name"].as_str().unwrap();
    let bytes = BASE64_STANDARD.decode(case["file"].as_str().unwrap()).unwrap();
    let picture = match (decode_bytes(&bytes, name), case["refused"].as_str()) {
        (Err(error), Some(_)) if error.to_string().contains(name) => return Ok(()),
        (Err(error), None) => return Err(format!("{name} is refused: {error}")),
        (_, Some(refused)) => return Err(format!("{name} is taken, but {refused}")),
        (Ok(picture), None) => picture,
    };
    let (width, height) = pair(&case["size"]);
    if picture.dimensions() != (width as u32, height as u32) {
        return Err(format!("{name} is {:?}, not {width}x{height}", picture.dimensions()));
    }
    if let Some(crc) = case["crc"].as_u64() {
        let same = u64::from(crc32(picture.into_raw())) == crc;
        return if same { Ok(()) } else { Err(format!("{name} has other pixels")) };
    }
    let Some(means) = case["means"].as_array() else { return Ok(()) };
    let blocks = |length: usize| {
        // As numpy.array_split: the first blocks are one longer.
        let count = length.min(4);
        (0..count).map(move |i| {
            (i * (length / count) + i.min(length % count), length / count + usize::from(i < length % count))
        })
    };
    let places = blocks(height).flat_map(|rows| blocks(width).map(move |columns| (rows, columns)));
    for (((top, rows), (left, columns)), means) in places.zip(means) {
        for channel in 0..3 {
            let levels = (top..top + rows).flat_map(|y| (left..left + columns).map(move |x| (x as u32, y as u32)));
            let sum: f64 = levels.map(|(x, y)| f64::from(picture.get_pixel(x, y).0[channel])).sum();
            let (mean, expected) = (sum / (rows * columns) as f64, means[channel].as_f64().unwrap());
            if (mean - expected).abs() > 3.0 {
                return Err(format!("{name}: the block at {left}, {top} has a mean of {mean:.1}, not {expected}"));
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in 0usize..6) {
        let starts: [&[u8]; 6] = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xFF\xD8\xFF", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"BM", b""];
        let _ = decode_bytes(&[starts[magic], &bytes].concat(), "random");
    }

    #[test]
    fn damaged_files_decode_or_fail_without_a_panic(
        format in 0usize..5,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in any::<prop::sample::Index>(),
    ) {
        let format = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Jpeg][format];
        let mut bytes = encoded(&halves().into_rgba8().into(), if format == ImageFormat::Jpeg { ImageFormat::Png } else { format });
        if format == ImageFormat::Jpeg {
            bytes = encoded(&halves(), format);
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(keep.index(bytes.len() * 2) + 1);
        if let Ok(picture) = decode_bytes(&bytes, "damaged") {
            prop_assert!(picture.width() >= 1 && picture.height() >= 1);
        }
    }

    #[test]
    fn any_accepted_picture_becomes_whole_merge_blocks(height in 1u32..300, width in 1u32..300) {
        let settings = ImageSettings { max_pixels: 200 * 200, ..ImageSettings::default() };
        if let Ok(prepared) = PreparedImage::prepare(&RgbImage::new(width, height), &settings) {
            prop_assert_eq!(prepared.patches.len(), prepared.resized_width * prepared.resized_height * 3);
            prop_assert_eq!(prepared.grid.patches() * 588, prepared.patches.len());
            prop_assert!(prepared.grid.h % 2 == 0 && prepared.grid.w % 2 == 0);
        }
    }
}
