//! The panels of figures, against OpenCV.

use std::sync::Arc;

use image::RgbImage;
use serde_json::Value;
use thyme_engine::image_ops::{only_panel, panels};

use super::{charts, figure, golden, picture, whole};

#[test]
fn panels_equal_those_that_opencv_finds() {
    let sorted = |mut boxes: Vec<[u32; 4]>| {
        boxes.sort();
        boxes
    };
    let expected = |value: &Value| sorted(serde_json::from_value(value.clone()).unwrap());
    let (figures, noisy) = (golden("panels.json", "figures"), golden("panels.json", "noise"));
    assert_eq!((figures.len(), noisy.len()), (100, 40));
    for (number, row) in figures.iter().enumerate() {
        let painted: Vec<[u32; 7]> = serde_json::from_value(row[2].clone()).unwrap();
        let found = panels(&figure(whole(&row[0]), whole(&row[1]), &painted)).unwrap();
        assert_eq!(sorted(found), expected(&row[3]), "figure {number}");
    }
    for row in noisy {
        let found = panels(&picture(whole(&row[0]), whole(&row[1]), row[2].as_bool().unwrap())).unwrap();
        assert_eq!(sorted(found), expected(&row[3]), "noise {row:?}");
    }
}

#[test]
fn panels_are_in_reading_order_and_all_but_one_become_white() {
    let four = charts(160, 120, &[(92, 71), (12, 14), (90, 11), (10, 70)]);
    let found = panels(&four).unwrap();
    assert_eq!(found, [[11, 13, 73, 55], [89, 10, 151, 52], [9, 69, 71, 111], [91, 70, 153, 112]]);
    let only = only_panel(&four, &found, 1).unwrap();
    for (number, &[left, top, right, bottom]) in found.iter().enumerate() {
        let pixels = (top..=bottom).flat_map(|row| (left..=right).map(move |column| (column, row)));
        let is_white = pixels.clone().all(|(column, row)| only.get_pixel(column, row).0 == [255; 3]);
        assert_eq!(is_white, number != 1);
        assert!(
            number != 1
                || pixels.clone().all(|(column, row)| only.get_pixel(column, row) == four.get_pixel(column, row))
        );
    }
    let three = charts(240, 60, &[(10, 10), (90, 12), (170, 9)]);
    let lefts: Vec<u32> = panels(&three).unwrap().iter().map(|[left, ..]| *left).collect();
    assert_eq!(lefts, [9, 89, 169]);
    assert_eq!(panels(&RgbImage::new(30, 20)).unwrap(), Vec::<[u32; 4]>::new());
    assert!(Arc::ptr_eq(&only_panel(&three, &found[..1], 0).unwrap(), &three), "nothing changes");
    let error = panels(&RgbImage::new(0, 20)).unwrap_err().to_string();
    assert!(error.contains("the picture is 0x20 pixels"), "{error}");
}
