//! Images that go into the jail and come out of it.

use std::fs::{self, File};
use std::io::{self, Cursor, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::picture::{Picture, Pixels};
use crate::files::open::read;

/// Most bytes of an input's file.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// The largest side of an image that goes in or comes out, in pixels.
pub(super) const SIDE_MAX: u32 = 32_768;
/// The memory that decoding an input image may take.
const INPUT_DECODE_BYTES: u64 = 2 << 30;

/// An image that code produced. The jail decodes it; what crosses the connection is pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducedImage {
    /// A plain file name by its place among the images of the run: `image-1.png`, `image-2.png`, …
    pub name: String,
    /// The path as the code named it, for text only: one line of bounded length. It exists only inside the jail.
    pub label: String,
    /// The pixels; alpha is laid onto white.
    pub image: RgbImage,
    /// Where the image shows more than the code cut out.
    pub widened: Option<Widened>,
}

/// How a crop was widened: the boxes are left, top, right, bottom, in pixels of the input image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Widened {
    /// What the code cut out.
    pub from: [i64; 4],
    /// What the image shows.
    pub to: [u32; 4],
}

impl Widened {
    /// Whether the boxes can be what they say, for an image of `size`. The code's own may stick out of it.
    pub(super) fn is_within(&self, (width, height): (u32, u32)) -> bool {
        let [left, top, right, bottom] = self.to;
        let far = -i64::from(u32::MAX)..=i64::from(u32::MAX);
        self.from.iter().all(|side| far.contains(side))
            && left < right
            && right <= width
            && top < bottom
            && bottom <= height
    }
}

/// The input image of a session, shared cheaply by the sequences of a group: the picture that the model was shown, so that
/// coordinates mean the same to both. EXIF orientation is applied and transparency laid onto white; a file that needs neither
/// is passed on as it is. Its file, and its pixels where all decoders agree on them, lie in memory that sessions map.
#[derive(Clone, Debug)]
pub struct InputImage {
    pub(super) picture: Arc<Picture>,
    pub(super) name: String,
    pub(super) size: (u32, u32),
}

impl InputImage {
    /// A file. Errors name it and what is wrong.
    pub fn read(path: &Path) -> Result<InputImage, SandboxError> {
        let bytes = read(path, FILE_BYTES_MAX)
            .map_err(|error| SandboxError::Image { path: path.to_owned(), reason: error.to_string() })?;
        InputImage::from_bytes(bytes, path)
    }

    /// The bytes of an image file; `path` gives the name that code sees, and is where it came from in errors.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<InputImage, SandboxError> {
        let (image, is_as_stored) = decode(&bytes, INPUT_DECODE_BYTES)
            .map_err(|reason| SandboxError::Image { path: path.to_owned(), reason })?;
        let name = plain_name(path, "image.png");
        match image {
            DynamicImage::ImageRgb8(image) if is_as_stored && is_still_png(&bytes) => {
                InputImage::new(&bytes, &Pixels::Exact(&image), name, image.dimensions())
            }
            image if is_as_stored => InputImage::new(&bytes, &Pixels::Unknown, name, (image.width(), image.height())),
            // PIL and OpenCV look at the first bytes, not at the name: under its own name a PNG is found where the prompt says.
            image => {
                let image = flatten(image);
                InputImage::new(&input_png(&image, path)?, &Pixels::Exact(&image), name, image.dimensions())
            }
        }
    }

    /// Pixels, written as PNG. `path` gives the name that code sees.
    pub fn from_rgb(image: &RgbImage, path: &Path) -> Result<InputImage, SandboxError> {
        let name = Path::new(&plain_name(path, "image.png")).with_extension("png");
        let name = plain_name(&name, "image.png");
        InputImage::new(&input_png(image, path)?, &Pixels::Exact(image), name, image.dimensions())
    }

    /// A file of this name and size, and its pixels.
    fn new(file: &[u8], pixels: &Pixels<'_>, name: String, size: (u32, u32)) -> Result<InputImage, SandboxError> {
        let picture =
            Picture::new(file, pixels).map_err(|source| SandboxError::Memory { name: name.clone(), source })?;
        Ok(InputImage { picture: Arc::new(picture), name, size })
    }

    /// The same image under another file name, which is taken if it is a plain one.
    pub fn named(self, name: &str) -> InputImage {
        InputImage { name: plain_name(Path::new(name), &self.name), ..self }
    }

    /// Width and height in pixels, as code sees them.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }
}

/// Whether a file is a PNG of one picture: those that move are not read alike.
fn is_still_png(bytes: &[u8]) -> bool {
    let behind = |mark: &[u8]| bytes.windows(mark.len()).position(|window| window == mark);
    let first_data = behind(b"IDAT").unwrap_or(0);
    bytes.starts_with(b"\x89PNG") && !bytes[..first_data].windows(4).any(|window| window == b"acTL")
}

/// Pixels as a PNG file.
///
/// # Errors
/// When the encoder refuses them.
pub fn png(image: &RgbImage) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
    Ok(bytes)
}

/// An input image as a PNG file; `path` is named in errors.
fn input_png(image: &RgbImage, path: &Path) -> Result<Vec<u8>, SandboxError> {
    png(image).map_err(|error| SandboxError::Image { path: path.to_owned(), reason: error.to_string() })
}

/// The last part of a path if it is a plain file name with a suffix, else `otherwise`. It is how code and prompt name the input image.
pub fn plain_name(path: &Path, otherwise: &str) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(otherwise);
    let is_plain =
        name.len() <= 100 && name.chars().all(|c| c.is_alphanumeric() || "._- ".contains(c)) && !name.starts_with('.');
    if is_plain && name.contains('.') { name.to_owned() } else { otherwise.to_owned() }
}

/// Decodes untrusted bytes within limits and applies EXIF orientation; also whether the stored pixels are already upright and
/// opaque.
fn decode(bytes: &[u8], memory_bytes: u64) -> Result<(DynamicImage, bool), String> {
    // A decoder that panics on damaged bytes must not end the run.
    catch_unwind(AssertUnwindSafe(|| decode_upright(bytes, memory_bytes)))
        .unwrap_or_else(|_| Err("the data is damaged".to_owned()))
}

fn decode_upright(bytes: &[u8], memory_bytes: u64) -> Result<(DynamicImage, bool), String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("it is not an image of a known format".to_owned());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(memory_bytes);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let orientation = decoder.orientation().map_err(|error| error.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    let is_as_stored = orientation == Orientation::NoTransforms && !image.color().has_alpha();
    Ok((image, is_as_stored))
}

/// The pixels, alpha laid onto white.
fn flatten(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, alpha] = image.get_pixel(x, y).0;
        let onto_white =
            |value: u8| ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8;
        image::Rgb([onto_white(r), onto_white(g), onto_white(b)])
    })
}

/// Writes an image into `folder`, which is made if it is missing, as a new file `<stem>-<number>.png`: the first number from `number` on
/// that is free. Never writes over a file or through a link. Gives the path and the number.
///
/// # Errors
/// When the folder or the file cannot be made or written; it names which.
pub fn save_new(
    image: &RgbImage,
    folder: &Path,
    stem: &str,
    mut number: usize,
) -> Result<(PathBuf, usize), SandboxError> {
    let failed = |path: &Path, source| SandboxError::Output { path: path.to_owned(), source };
    fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    let bytes = png(image).map_err(|error| failed(folder, io::Error::other(error)))?;
    loop {
        let path = folder.join(format!("{stem}-{number}.png"));
        match File::create_new(&path) {
            Ok(mut file) => {
                return match file.write_all(&bytes) {
                    Ok(()) => Ok((path, number)),
                    Err(source) => {
                        // Half an image is none. That it could not be written is what is reported.
                        drop(fs::remove_file(&path));
                        Err(failed(&path, source))
                    }
                };
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(failed(&path, source)),
        }
    }
}

/// Writes the images of a run as new files `image-1.png`, `image-2.png`, … of `folder`; a number that is taken is passed over.
pub(super) fn save_images(images: &[ProducedImage], folder: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let mut paths = Vec::new();
    let mut next = 1;
    for produced in images {
        let (path, number) = save_new(&produced.image, folder, "image", next)?;
        paths.push(path);
        next = number + 1;
    }
    Ok(paths)
}
