//! GIF as Pillow reads it: the first frame on its screen, and what is transparent in the colour that the palette gives it.

use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use ::image::RgbImage;

use super::image_problem::{ImageProblem, PIXELS_MAX, check_size, damaged};

/// Decodes the first frame of a file.
///
/// # Errors
/// When it is damaged or cut off in its first frame, or its size is unusable.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageProblem> {
    let broken = |error: DecodingError| damaged(&error.to_string());
    if !first_frame_is_complete(bytes) {
        return Err(damaged("it ends within its first frame"));
    }
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::new(PIXELS_MAX).expect("it is not 0")));
    let mut decoder = options.read_info(bytes).map_err(broken)?;
    let (wide, high) = (decoder.width(), decoder.height());
    let frame = decoder.next_frame_info().map_err(broken)?.ok_or_else(|| damaged("it has no frame"))?.clone();
    let [left, top, across, down] = [frame.left, frame.top, frame.width, frame.height].map(u32::from);
    let (width, height) = (u32::from(wide).max(left + across), u32::from(high).max(top + down));
    check_size(width, height)?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(broken)?;

    let palette = frame.palette.as_deref().or(decoder.global_palette());
    let colour = |index: u8| match palette {
        Some(palette) => palette.as_chunks().0.get(usize::from(index)).copied().unwrap_or_default(),
        None => [index; 3],
    };
    let mut pixels = RgbImage::from_pixel(width, height, colour(frame.transparent.unwrap_or(0)).into());
    for (row, indices) in indices.chunks_exact(across.max(1) as usize).enumerate() {
        let start = ((top as usize + row) * width as usize + left as usize) * 3;
        let places = pixels.as_mut()[start..][..indices.len() * 3].as_chunks_mut().0;
        places.iter_mut().zip(indices).for_each(|(place, &index)| *place = colour(index));
    }
    Ok(pixels)
}

/// Whether the blocks of the first frame lie within the file; the decoder would make do with a part of the last one. What stands behind them
/// does not matter.
fn first_frame_is_complete(bytes: &[u8]) -> bool {
    const EXTENSION: u8 = 0x21;
    const FRAME: u8 = 0x2C;
    let palette_bytes = |flags: u8| if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) };
    let Some(&flags) = bytes.get(10) else { return false };
    let mut at = 13 + palette_bytes(flags);
    loop {
        let is_frame = match bytes.get(at) {
            Some(&FRAME) => true,
            Some(&EXTENSION) => false,
            // Nothing that the decoder would take for a frame.
            _ => return true,
        };
        at += if is_frame { 11 + palette_bytes(bytes.get(at + 9).copied().unwrap_or(0)) } else { 2 };
        loop {
            match bytes.get(at) {
                Some(0) => break,
                Some(&length) if at + usize::from(length) < bytes.len() => at += 1 + usize::from(length),
                // The mark behind the last block may be missing.
                None => return at == bytes.len(),
                Some(_) => return false,
            }
        }
        if is_frame {
            return true;
        }
        at += 1;
    }
}
