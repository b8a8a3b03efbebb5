//! Pictures: decoding with limits, the sizes that the model accepts, and patches in the order that it reads them. Equal to
//! transformers' `Qwen2VLImageProcessorPil` on RGB pictures.

use std::io::{BufRead, Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError as CodecError, ImageFormat, ImageReader, Limits, RgbImage};
use thiserror::Error;

use super::gif;
use super::png::{self, Png};
use super::positions::Grid;
use super::resize::resize_bicubic;
use super::size::PictureSize;
use crate::files::open::read;

/// The longest side that is decoded.
pub const SIDE_MAX: u32 = 16_384;
/// The most pixels that are decoded: where Pillow, too, suspects a decompression bomb and refuses.
pub const PIXELS_MAX: u64 = 178_956_970;
/// The largest file that is read.
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// The largest ratio of a picture's sides, as in transformers.
pub const ASPECT_MAX: f64 = 200.0;

const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp];

/// A picture that cannot be used: which one, and why.
#[derive(Debug, Error)]
#[error("image {name}: {problem}")]
pub struct ImageError {
    /// The file, or the start of the data URL.
    pub name: String,
    /// What is wrong, and the remedy.
    pub problem: ImageProblem,
}

/// What can be wrong with a picture.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum ImageProblem {
    /// It could not be read or decoded.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Not one of the formats.
    #[error("is not PNG, JPEG, WebP, GIF or BMP; convert it to one of these")]
    UnknownFormat,
    /// It has no pixels.
    #[error("is {width}x{height} pixels; each side must have at least 1")]
    TooSmall {
        /// Width in pixels, of the picture or as its message asks.
        width: u32,
        /// Height in pixels, of the picture or as its message asks.
        height: u32,
    },
    /// A side or the area is too large.
    #[error(
        "is {width}x{height} pixels; at most {SIDE_MAX} a side and {PIXELS_MAX} in all are accepted: scale it down first"
    )]
    TooLarge {
        /// Width of the picture in pixels.
        width: u32,
        /// Height of the picture in pixels.
        height: u32,
    },
    /// The message asks for more pixels than it allows.
    #[error(
        "is wanted at {least} pixels or more and {most} or fewer; give min_pixels and max_pixels in order, both beside the picture"
    )]
    Limits {
        /// Smallest area in pixels (`min_pixels`).
        least: u64,
        /// Largest area in pixels (`max_pixels`).
        most: u64,
    },
    /// The sides are too unequal.
    #[error(
        "is {width}x{height} pixels, an aspect ratio of {:.1}; at most {ASPECT_MAX} is accepted: crop or pad it",
        aspect(*width, *height)
    )]
    TooNarrow {
        /// Width in pixels, of the picture or as its message asks.
        width: u32,
        /// Height in pixels, of the picture or as its message asks.
        height: u32,
    },
}

impl ImageError {
    /// A picture that could not be read.
    pub fn unreadable(name: &str, reason: &str) -> Self {
        ImageProblem::Unreadable(reason.to_owned()).of(name)
    }
}

impl ImageProblem {
    fn of(self, name: &str) -> ImageError {
        ImageError { name: name.to_owned(), problem: self }
    }
}

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

/// Whether a picture of this size is usable.
///
/// # Errors
/// When it is too small, too large or too narrow.
pub fn check_size(width: u32, height: u32) -> Result<(), ImageProblem> {
    if width == 0 || height == 0 {
        return Err(ImageProblem::TooSmall { width, height });
    }
    if width.max(height) > SIDE_MAX || u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(ImageProblem::TooLarge { width, height });
    }
    if aspect(width, height) > ASPECT_MAX {
        return Err(ImageProblem::TooNarrow { width, height });
    }
    Ok(())
}

fn aspect(width: u32, height: u32) -> f64 {
    f64::from(width.max(height)) / f64::from(width.min(height))
}

/// What a damaged file is.
pub(super) fn damaged(reason: &str) -> ImageProblem {
    ImageProblem::Unreadable(format!("the data is damaged or cut off ({reason}); copy or download it again"))
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

/// A colour laid over white.
pub(super) fn over_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|level| ((u32::from(level) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// How a checkpoint wants its pictures (`preprocessor_config.json`).
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSettings {
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Patches a side of a merged cell, which is one token.
    pub merge_size: usize,
    /// Frames in a patch; a still picture is repeated.
    pub temporal_patch_size: usize,
    /// Smaller pictures are enlarged to about this many pixels.
    pub min_pixels: u64,
    /// Larger pictures are reduced to at most this many pixels.
    pub max_pixels: u64,
    /// Mean of each channel, on the scale 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, on the scale 0 to 1.
    pub std: [f32; 3],
}

impl Default for ImageSettings {
    /// The defaults of transformers' Qwen2-VL image processor.
    fn default() -> Self {
        ImageSettings {
            patch_size: 14,
            merge_size: 2,
            temporal_patch_size: 2,
            min_pixels: 56 * 56,
            max_pixels: 28 * 28 * 1280,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl ImageSettings {
    /// Sides are multiples of this many pixels.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// Tokens of a picture of this size, or of one turned by a quarter, where its message asks for `size`.
    ///
    /// # Errors
    /// As [`ImageSettings::resized`].
    pub fn tokens(&self, (width, height): (u32, u32), size: Option<PictureSize>) -> Result<usize, ImageProblem> {
        let (tall, wide) = self.resized((height, width), size)?;
        Ok((tall / self.factor()) * (wide / self.factor()))
    }

    /// The size, as (height, width), at which the model sees a picture of this size: as [`smart_resize`] has it, or, where its message asks for
    /// `size`, as qwen-vl-utils has it, which rounds a side to a cell at least before it looks at the limits.
    ///
    /// # Errors
    /// As [`smart_resize`]; also when the limits contradict each other.
    pub fn resized(&self, picture: (u32, u32), size: Option<PictureSize>) -> Result<(usize, usize), ImageProblem> {
        let factor = self.factor();
        let cell = (factor * factor) as u64;
        match size {
            None => smart_resize(picture, factor, self.min_pixels, self.max_pixels),
            Some(PictureSize::Sides { resized_height, resized_width }) => {
                // Limits of qwen-vl-utils.
                resize_within((resized_height, resized_width), factor, factor, 4 * cell, 16_384 * cell)
            }
            Some(PictureSize::Limits { min_pixels, max_pixels }) => {
                let (least, most) = (min_pixels.unwrap_or(self.min_pixels), max_pixels.unwrap_or(self.max_pixels));
                if least > most {
                    return Err(ImageProblem::Limits { least, most });
                }
                resize_within(picture, factor, factor, least, most)
            }
        }
    }

    /// The value that the model sees for each level of each channel: `level / 255` rounded to f32, then
    /// `(x - mean) / std` in f32, as transformers computes it.
    pub fn level_values(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let scaled = (level as f64 * (1.0 / 255.0)) as f32;
                (scaled - self.mean[channel]) / self.std[channel]
            })
        })
    }
}

/// The size, as (height, width), to which transformers resizes a picture: multiples of `factor`, about `min_pixels` to
/// `max_pixels` in all, the aspect ratio nearly kept.
///
/// # Errors
/// When a side is zero, or the aspect ratio is above [`ASPECT_MAX`].
pub fn smart_resize(
    picture: (u32, u32),
    factor: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<(usize, usize), ImageProblem> {
    resize_within(picture, factor, 0, min_pixels, max_pixels)
}

/// [`smart_resize`] with sides that are rounded to `side_min` at least.
fn resize_within(
    (height, width): (u32, u32),
    factor: usize,
    side_min: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<(usize, usize), ImageProblem> {
    if height == 0 || width == 0 {
        return Err(ImageProblem::TooSmall { width, height });
    }
    if aspect(width, height) > ASPECT_MAX {
        return Err(ImageProblem::TooNarrow { width, height });
    }
    let (tall, wide, step) = (f64::from(height), f64::from(width), factor as f64);
    let area = (u64::from(height) * u64::from(width)) as f64;
    let round = |side: f64| ((side / step).round_ties_even() as usize * factor).max(side_min);
    let (rounded_height, rounded_width) = (round(tall), round(wide));
    let rounded_area = rounded_height as u64 * rounded_width as u64;
    if rounded_area > max_pixels {
        let beta = (area / max_pixels as f64).sqrt();
        let shrink = |side: f64| ((side / beta / step).floor() as usize * factor).max(factor);
        return Ok((shrink(tall), shrink(wide)));
    }
    if rounded_area < min_pixels {
        let beta = (min_pixels as f64 / area).sqrt();
        let grow = |side: f64| (side * beta / step).ceil() as usize * factor;
        return Ok((grow(tall), grow(wide)));
    }
    if rounded_area == 0 {
        return Err(ImageProblem::TooSmall { width, height });
    }
    Ok((rounded_height, rounded_width))
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
    let block = side * merge;
    for (top, left) in (0..height).step_by(block).flat_map(|top| (0..width).step_by(block).map(move |left| (top, left)))
    {
        for (row, column) in (0..merge).flat_map(|row| (0..merge).map(move |column| (row, column))) {
            let (y, x) = (top + row * side, left + column * side);
            for channel in 0..3 {
                for y in y..y + side {
                    let line = &pixels[(y * width + x) * 3..][..side * 3];
                    patches.extend(line[channel..].iter().step_by(3));
                }
            }
        }
    }
    patches
}
