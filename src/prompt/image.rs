//! Pictures: decoding with limits, and patches in the order that the model reads them. Equal to transformers' `Qwen2VLImageProcessorPil` on RGB
//! pictures.

use std::io::{BufRead, Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError as CodecError, ImageFormat, ImageReader, Limits, RgbImage};

use super::gif;
use super::image_problem::damaged;
use super::png::{self, Png, over_white};
use super::positions::Grid;
use super::resize::resize_bicubic;
use super::size::PictureSize;
use crate::files::open::read;

pub use super::image_problem::{ASPECT_MAX, ImageError, ImageProblem, PIXELS_MAX, SIDE_MAX, check_size};
pub use super::image_settings::{ImageSettings, smart_resize};

/// The largest file that is read.
pub const FILE_BYTES_MAX: u64 = 512 << 20;

const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp];

/// Decodes a picture file: first frame, EXIF orientation applied, and RGB made of it as Pillow and qwen-vl-utils do: RGB with alpha is laid onto
/// white, other transparency is dropped. What is odd about a file whose pixels are whole is a warning.
///
/// # Errors
/// When it is missing, damaged, of another format, or of an unusable size. Sizes are checked before pixels are decoded.
pub fn decode_file(path: &Path) -> Result<RgbImage, ImageError> {
    let name = path.display().to_string();
    let bytes = read(path, FILE_BYTES_MAX).map_err(|error| ImageError::unreadable(&name, &error.to_string()))?;
    decode_bytes(&bytes, &name)
}

/// Decodes a picture in memory as [`decode_file`] does; `name` is used in errors.
///
/// # Errors
/// As [`decode_file`].
pub fn decode_bytes(bytes: &[u8], name: &str) -> Result<RgbImage, ImageError> {
    // The codecs are other people's code fed with anybody's bytes: a panic in one is a damaged file, not our end.
    let (image, oddities) = catch_unwind(AssertUnwindSafe(|| decode(bytes)))
        .unwrap_or_else(|_| Err(ImageProblem::Unreadable("the data is damaged (the decoder gave up)".to_owned())))
        .map_err(|problem| problem.of(name))?;
    for oddity in oddities {
        tracing::warn!("image {name}: {oddity}; its pixels are used as Pillow has them");
    }
    Ok(image)
}

/// Width and height of a picture as it is stored, before its orientation is applied, if its header says them.
pub fn stored_size(picture: impl BufRead + Seek) -> Option<(u32, u32)> {
    let read = || ImageReader::new(picture).with_guessed_format().ok()?.into_dimensions().ok();
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

/// The picture, and what is odd about its file.
fn decode(bytes: &[u8]) -> Result<(RgbImage, Vec<&'static str>), ImageProblem> {
    if bytes.starts_with(png::MAGIC) {
        let Png { pixels, exif, oddities } = png::decode(bytes)?;
        let orientation = exif.and_then(|exif| Orientation::from_exif_chunk(&exif));
        return Ok((turned(pixels.into(), orientation).into_rgb8(), oddities));
    }
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| damaged(&error.to_string()))?;
    let format = reader.format().filter(|format| FORMATS.contains(format)).ok_or(match bytes {
        [] => ImageProblem::Unreadable("the file is empty".to_owned()),
        _ => ImageProblem::UnknownFormat,
    })?;
    match format {
        ImageFormat::Gif => return Ok((gif::decode(bytes)?, Vec::new())),
        ImageFormat::Jpeg => check_jpeg(bytes)?,
        ImageFormat::WebP if !webp_is_complete(bytes) => return Err(damaged("the WebP ends within a chunk")),
        _ => {}
    }
    // 16 bits in 4 channels are 8 bytes a pixel; twice that leaves room for a decoder's own buffers.
    let mut limits = Limits::default();
    limits.max_alloc = Some(PIXELS_MAX * 16);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(codec_problem)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let orientation = decoder.orientation().map_err(codec_problem)?;
    let image = DynamicImage::from_decoder(decoder).map_err(codec_problem)?;
    Ok((onto_white(turned(image, Some(orientation))), Vec::new()))
}

fn turned(mut image: DynamicImage, orientation: Option<Orientation>) -> DynamicImage {
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    image
}

fn codec_problem(error: CodecError) -> ImageProblem {
    damaged(&error.to_string())
}

/// Checks what a decoder would put up with and libjpeg does not: an end marker must follow the start of the scan, or a cut-off picture would be
/// filled with grey, and only known markers may stand before it. They are skipped by their lengths, since an embedded thumbnail has an end
/// marker of its own.
fn check_jpeg(bytes: &[u8]) -> Result<(), ImageProblem> {
    const START_OF_SCAN: u8 = 0xDA;
    const END: [u8; 2] = [0xFF, 0xD9];
    let mut at = 2;
    while let Some(&[marker, kind, high, low]) = bytes.get(at..at + 4) {
        match kind {
            _ if marker != 0xFF => at += 1,
            START_OF_SCAN if bytes[at..].windows(2).rev().any(|pair| pair == END) => return Ok(()),
            START_OF_SCAN => break,
            0xFF => at += 1,
            0x01 | 0xD0..=0xD8 => at += 2,
            0xC0..=0xC7 | 0xC9..=0xDD | 0xE0..=0xEF | 0xFE => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => return Err(damaged(&format!("the JPEG has an unknown marker {kind:02X}"))),
        }
    }
    Err(damaged("the end of the JPEG is missing"))
}

/// Whether all chunks lie within the file.
fn webp_is_complete(bytes: &[u8]) -> bool {
    let length = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let Some(end) = length(4).map(|length| length + 8).filter(|end| *end <= bytes.len()) else { return false };
    let mut at = 12;
    while let Some(length) = length(at + 4).filter(|_| at + 8 <= end) {
        at += 8 + length + length % 2;
    }
    at <= end
}

fn onto_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let mut white = RgbImage::new(image.width(), image.height());
    for (pixel, over) in white.pixels_mut().zip(image.pixels()) {
        let [red, green, blue, alpha] = over.0;
        pixel.0 = over_white([red, green, blue], alpha);
    }
    white
}

/// A picture as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PreparedImage {
    /// Levels 0 to 255, `[grid.h * grid.w, 3 * patch_size * patch_size]`: patches in merge-block order (block row, block
    /// column, row in block, column in block), each channel first, then y, x. Neither normalised nor repeated in time.
    pub patches: Vec<u8>,
    /// Size in patches.
    pub grid: Grid,
    /// Width of the picture before resizing, in pixels.
    pub original_width: u32,
    /// Height of the picture before resizing, in pixels.
    pub original_height: u32,
    /// Width after resizing, in pixels.
    pub resized_width: usize,
    /// Height after resizing, in pixels.
    pub resized_height: usize,
    /// Tells it from other images: the first 16 bytes of BLAKE3 over grid and patches.
    pub digest: u128,
}

impl PreparedImage {
    /// Resizes a picture and cuts it into patches.
    ///
    /// # Errors
    /// When its size is unusable.
    pub fn prepare(image: &RgbImage, settings: &ImageSettings) -> Result<Self, ImageProblem> {
        Self::prepare_at(image, settings, None)
    }

    /// The same where its message asks for `size`.
    ///
    /// # Errors
    /// When its size is unusable, or the asked one is.
    pub fn prepare_at(
        image: &RgbImage,
        settings: &ImageSettings,
        size: Option<PictureSize>,
    ) -> Result<Self, ImageProblem> {
        let (width, height) = image.dimensions();
        check_size(width, height)?;
        let (resized_height, resized_width) = settings.resized((height, width), size)?;
        let from = (height as usize, width as usize);
        let pixels = resize_bicubic(image.as_raw(), from, (resized_height, resized_width));
        let side = settings.patch_size;
        let patches = cut_patches(&pixels, (resized_height, resized_width), side, settings.merge_size);
        let grid = Grid { t: 1, h: (resized_height / side) as u32, w: (resized_width / side) as u32 };
        Ok(PreparedImage {
            digest: digest(grid, &patches),
            patches,
            grid,
            original_width: width,
            original_height: height,
            resized_width,
            resized_height,
        })
    }

    /// Width and height after resizing, in pixels.
    pub fn resized(&self) -> (u32, u32) {
        (self.resized_width as u32, self.resized_height as u32)
    }

    /// The picture after resizing, as it was cut into patches.
    pub fn pixels(&self, settings: &ImageSettings) -> RgbImage {
        let side = settings.patch_size;
        let (width, plane) = (self.resized_width, side * side);
        let mut pixels = vec![0; self.patches.len()];
        let corners = patch_corners((self.resized_height, width), side, settings.merge_size);
        for ((top, left), patch) in corners.zip(self.patches.chunks_exact(3 * plane)) {
            for (i, &level) in patch.iter().enumerate() {
                let (channel, y, x) = (i / plane, i % plane / side, i % side);
                pixels[((top + y) * width + left + x) * 3 + channel] = level;
            }
        }
        let (width, height) = self.resized();
        RgbImage::from_raw(width, height, pixels).expect("patches hold each pixel once")
    }

    /// What transformers calls `pixel_values`: `[grid.h * grid.w, 3 * temporal * patch * patch]`, normalised, the frame
    /// repeated. The model does the same on its own device from `patches`; this form is for comparison.
    pub fn normalised(&self, settings: &ImageSettings) -> Vec<f32> {
        let values = settings.level_values();
        let plane = settings.patch_size * settings.patch_size;
        let mut normalised = Vec::with_capacity(self.patches.len() * settings.temporal_patch_size);
        for (index, levels) in self.patches.chunks_exact(plane).enumerate() {
            for _ in 0..settings.temporal_patch_size {
                normalised.extend(levels.iter().map(|&level| values[index % 3][usize::from(level)]));
            }
        }
        normalised
    }
}

fn digest(grid: Grid, patches: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for size in [grid.t, grid.h, grid.w] {
        hasher.update(&size.to_le_bytes());
    }
    hasher.update(patches);
    u128::from_le_bytes(hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
}

/// Interleaved RGB `[height, width, 3]` to patches (the layout is that of [`PreparedImage::patches`]).
fn cut_patches(pixels: &[u8], (height, width): (usize, usize), side: usize, merge: usize) -> Vec<u8> {
    let mut patches = Vec::with_capacity(pixels.len());
    for (top, left) in patch_corners((height, width), side, merge) {
        for channel in 0..3 {
            for y in top..top + side {
                let line = &pixels[(y * width + left) * 3..][..side * 3];
                patches.extend(line[channel..].iter().step_by(3));
            }
        }
    }
    patches
}

/// The upper left corner (y, x) of each patch, in merge-block order.
fn patch_corners((height, width): (usize, usize), side: usize, merge: usize) -> impl Iterator<Item = (usize, usize)> {
    let block = side * merge;
    let blocks = (0..height).step_by(block).flat_map(move |top| (0..width).step_by(block).map(move |left| (top, left)));
    blocks.flat_map(move |(top, left)| {
        (0..merge).flat_map(move |row| (0..merge).map(move |column| (top + row * side, left + column * side)))
    })
}
