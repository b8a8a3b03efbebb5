//! PNG as Pillow reads it: what it forgives (no IEND, bad checksums of the pixels' chunks, nothing behind the last row), what it refuses (bad
//! checksums before the pixels, missing rows), and what it makes of pixels that are neither RGB nor 8 bits. Of an animation it is the default
//! picture.

mod chunks;
mod colours;
mod filters;
mod header;
mod rows;

use ::image::RgbImage;
use chunks::File;
pub use chunks::MAGIC;
use colours::colour;
pub use colours::over_white;
use filters::unfilter;
use header::{Colour, Form};
use rows::Rows;

use super::image_problem::{ImageProblem, check_size};

/// Where each pass of an interlaced picture begins, column and row, and its steps.
const PASSES: [[usize; 4]; 7] =
    [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
/// The one pass of others.
const WHOLE: [[usize; 4]; 1] = [[0, 0, 1, 1]];

/// A decoded file.
pub struct Png {
    /// Its pixels, as they are stored.
    pub pixels: RgbImage,
    /// Its EXIF data, which say how it is to be turned.
    pub exif: Option<Vec<u8>>,
    /// What is odd about it, though its pixels can be used.
    pub oddities: Vec<&'static str>,
}

/// Decodes a file.
///
/// # Errors
/// Where Pillow refuses it, or its size is unusable.
pub fn decode(bytes: &[u8]) -> Result<Png, ImageProblem> {
    let mut file = File::read_head(bytes)?;
    let form = file.form;
    check_size(form.width, form.height)?;
    let pieces = file.read_pieces();
    let mut pixels = RgbImage::new(form.width, form.height);
    let mut rows = Rows::new(pieces);
    draw(&form, &file.palette, &mut rows, &mut pixels)?;
    if !rows.is_over && !rows.ends_well()? {
        file.oddities.push("the checksum of its pixels is missing");
    }
    file.read_tail()?;
    if form.bits == 16 && form.colour == Colour::Grey {
        file.oddities.push("of its 16 bits a pixel, levels above 255 become white; convert it to 8 bits");
    }
    Ok(Png { pixels, exif: file.exif, oddities: file.oddities })
}

/// Draws all rows. Those that a whole stream does not have stay black.
fn draw(form: &Form, palette: &[[u8; 3]; 256], rows: &mut Rows<'_>, pixels: &mut RgbImage) -> Result<(), ImageProblem> {
    let (width, height) = (form.width as usize, form.height as usize);
    let passes: &[[usize; 4]] = if form.is_interlaced { &PASSES } else { &WHOLE };
    let pixel_bytes = (form.colour.channels() * form.bits / 8).max(1);
    for &[left, top, across, down] in passes {
        let columns = width.saturating_sub(left).div_ceil(across);
        if columns == 0 {
            continue;
        }
        let mut row = vec![0; 1 + form.row_bytes(columns)];
        let mut above = row.clone();
        for y in (top..height).step_by(down) {
            if !rows.read(&mut row)? {
                return Ok(());
            }
            unfilter(row[0], &mut row[1..], &above[1..], pixel_bytes)?;
            let line = &mut pixels.as_mut()[y * width * 3..][..width * 3];
            let places = line.as_chunks_mut().0.iter_mut().skip(left).step_by(across);
            colour(form, palette, &row[1..], places);
            std::mem::swap(&mut row, &mut above);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ::image::ImageFormat;

    use super::*;

    #[test]
    fn what_is_odd_about_a_file_is_told() {
        let mut whole = Cursor::new(Vec::new());
        let picture = RgbImage::from_fn(5, 4, |x, y| [x as u8, y as u8, 9].into());
        picture.write_to(&mut whole, ImageFormat::Png).unwrap();
        let whole = whole.into_inner();
        let told = |bytes: &[u8]| {
            let png = decode(bytes).unwrap();
            assert_eq!(png.pixels, picture);
            png.oddities
        };
        assert!(told(&whole).is_empty());
        // Length, name and checksum of IEND stand last, before them the checksum of the pixels' chunk, and of the pixels themselves.
        let end = whole.len() - 12;
        assert_eq!(told(&whole[..end]), ["it ends without an IEND chunk"]);
        let mut changed = whole.clone();
        changed[end - 1] ^= 1;
        assert_eq!(told(&changed), ["the checksum of a chunk of its pixels is wrong"]);
        assert_eq!(told(&whole[..end - 8]), ["the checksum of its pixels is missing", "it ends without an IEND chunk"]);
    }
}
