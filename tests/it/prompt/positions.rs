//! Positions, windows and bounds.

use proptest::prelude::*;
use serde_json::Value;
use thyme_engine::prompt::positions::{image_bounds, patch_positions, positions, window_order};
use thyme_engine::prompt::{Grid, PositionCursor, PositionError};

use super::{golden, numbers};

const TEXT: u32 = 5;
const PAD: u32 = 9;

fn grids(value: &Value) -> Vec<Grid> {
    numbers(value).chunks_exact(2).map(|size| Grid { t: 1, h: size[0], w: size[1] }).collect()
}

#[test]
fn positions_equal_get_rope_index_of_transformers() {
    let golden = golden("positions.json");
    for (name, case) in golden["rope_index"].as_object().unwrap() {
        let (ids, grids) = (numbers(&case["ids"]), grids(&case["grids"]));
        let (positions, next) = positions(&ids, &grids, 2, PAD).unwrap();
        assert_eq!(positions.concat(), numbers(&case["positions"]), "{name}");
        assert_eq!(u64::from(next), case["next"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn patch_positions_windows_and_bounds_equal_those_of_transformers() {
    for case in golden("positions.json")["vision"].as_array().unwrap() {
        let grids = grids(&case["grids"]);
        let (mut places, mut order, mut bounds, mut units) = (Vec::new(), Vec::new(), vec![0], 0);
        for &grid in &grids {
            places.extend(patch_positions(grid, 2).concat());
            let windows = window_order(grid, 2, 14, 112);
            order.extend(windows.order.iter().map(|unit| unit + units));
            bounds.extend(windows.bounds[1..].iter().map(|bound| bound + units * 4));
            units += grid.tokens(2) as u32;
        }
        assert_eq!(places, numbers(&case["patch_positions"]));
        assert_eq!(order, numbers(&case["window_order"]));
        assert_eq!(bounds, numbers(&case["window_bounds"]));
        assert_eq!(image_bounds(&grids), numbers(&case["image_bounds"]));
    }
}

#[test]
fn adjacent_images_are_told_apart_by_their_grids() {
    let grids = [Grid { t: 1, h: 2, w: 4 }, Grid { t: 1, h: 4, w: 2 }];
    let (positions, next) = positions(&[PAD; 4], &grids, 2, PAD).unwrap();
    assert_eq!(positions, [[0, 0, 0], [0, 0, 1], [2, 2, 2], [2, 3, 2]]);
    assert_eq!(next, 4);
}

#[test]
fn placeholders_and_images_that_do_not_fit_are_errors() {
    let grid = Grid { t: 1, h: 4, w: 2 };
    let fails = |ids: &[u32], grids: &[Grid]| positions(ids, grids, 2, PAD).unwrap_err();
    assert_eq!(fails(&[TEXT, PAD], &[]), PositionError::PadWithoutImage { index: 1, images: 0 });
    assert_eq!(fails(&[PAD, TEXT], &[grid]), PositionError::CutImage { image: 0, tokens: 2, seen: 1 });
    assert_eq!(fails(&[PAD], &[grid]), PositionError::CutImage { image: 0, tokens: 2, seen: 1 });
    assert_eq!(fails(&[PAD, PAD, TEXT], &[grid, grid]), PositionError::UnusedImages { left: 1, images: 2 });
    assert_eq!(fails(&[PAD, PAD, PAD], &[grid]), PositionError::PadWithoutImage { index: 2, images: 1 });
}

fn pieces() -> impl Strategy<Value = Vec<(usize, Option<(u32, u32)>)>> {
    prop::collection::vec((0usize..6, prop::option::of((1u32..5, 1u32..5))), 1..8)
}

proptest! {
    #[test]
    fn chunk_by_chunk_gives_the_same_positions_as_the_whole(pieces in pieces(), cuts in prop::collection::vec(1usize..7, 1..9)) {
        let (mut ids, mut grids) = (Vec::new(), Vec::new());
        for (text, image) in pieces {
            ids.extend(vec![TEXT; text]);
            if let Some((rows, columns)) = image {
                ids.extend(vec![PAD; (rows * columns) as usize]);
                grids.push(Grid { t: 1, h: rows * 2, w: columns * 2 });
            }
        }
        let (whole, next) = positions(&ids, &grids, 2, PAD).unwrap();
        let mut cursor = PositionCursor::new(2, PAD);
        let (mut chunked, mut rest) = (Vec::new(), ids.as_slice());
        cursor.add_images(&grids);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            chunked.extend(cursor.clone().extend(chunk).unwrap());
            cursor.extend(chunk).unwrap();
            rest = after;
        }
        prop_assert_eq!(chunked, whole);
        prop_assert_eq!(cursor.next_position(), next);
        prop_assert_eq!(cursor.finish(), Ok(()));
    }

    #[test]
    fn windows_hold_every_merge_unit_once(rows in 1u32..20, columns in 1u32..20, side in 1usize..6) {
        let grid = Grid { t: 1, h: rows * 2, w: columns * 2 };
        let windows = window_order(grid, 2, 14, side * 28);
        let mut units = windows.order.clone();
        units.sort_unstable();
        prop_assert_eq!(units, (0..rows * columns).collect::<Vec<_>>());
        prop_assert_eq!(windows.bounds.last().copied(), Some(grid.patches() as u32));
        prop_assert!(windows.bounds.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= (side * side * 4) as u32));
    }
}
