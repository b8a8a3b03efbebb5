//! The filters of a PNG's rows, taken back.

use super::super::image_problem::{ImageProblem, damaged};

/// Takes a filter back (PNG specification, section 9); `above` is the row above it in its pass.
pub(super) fn unfilter(filter: u8, row: &mut [u8], above: &[u8], pixel_bytes: usize) -> Result<(), ImageProblem> {
    let from_left = pixel_bytes.min(row.len());
    match filter {
        0 => {}
        1 => (from_left..row.len()).for_each(|i| row[i] = row[i].wrapping_add(row[i - pixel_bytes])),
        2 => row.iter_mut().zip(above).for_each(|(byte, above)| *byte = byte.wrapping_add(*above)),
        3 => {
            for i in 0..row.len() {
                let left = if i < pixel_bytes { 0 } else { row[i - pixel_bytes] };
                row[i] = row[i].wrapping_add(((u16::from(left) + u16::from(above[i])) / 2) as u8);
            }
        }
        4 => {
            for i in 0..row.len() {
                let (left, corner) =
                    if i < pixel_bytes { (0, 0) } else { (row[i - pixel_bytes], above[i - pixel_bytes]) };
                row[i] = row[i].wrapping_add(paeth(left, above[i], corner));
            }
        }
        _ => return Err(damaged(&format!("a row of its pixels has the filter {filter}"))),
    }
    Ok(())
}

/// Whichever of the three is nearest to `left + above − corner`, in that order.
fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, above, corner].map(i16::from);
    let [to_left, to_above, to_corner] = [b - c, a - c, a + b - 2 * c].map(i16::abs);
    if to_left <= to_above && to_left <= to_corner {
        left
    } else if to_above <= to_corner {
        above
    } else {
        corner
    }
}
