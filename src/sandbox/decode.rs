//! A JPEG is decoded once for all sessions of a picture. The libraries of the jail do it, in a process of the jail that runs no code and ends
//! with it: decoders differ in the last bit, and code must see what the libraries would give it.

use std::sync::Arc;
use std::time::Instant;

use image::ImageFormat;
use serde_json::json;

use super::error::SandboxError;
use super::frames::Ended;
use super::image::InputImage;
use super::picture::{Picture, Pixels, is_kept};
use super::process::{Failure, Process, Request};
use super::reply::{Decoded, Form};
use super::shared::Shared;

/// Bytes of the header of the answer.
const HEADER_BYTES: usize = 4 << 10;

/// The picture with its pixels, or as it is where it has them, is no JPEG, is too large, or cannot be decoded.
pub(super) fn decoded(shared: &Arc<Shared>, image: InputImage) -> InputImage {
    if image.picture.has_pixels() || !is_kept(image.size) {
        return image;
    }
    match decode(shared, &image) {
        Ok(Some(picture)) => InputImage { picture: picture.into(), ..image },
        Ok(None) => image,
        Err(failure) => {
            tracing::debug!("each session decodes {} itself: {failure}", image.name);
            image
        }
    }
}

/// The picture's file and its pixels; nothing where it is no JPEG.
fn decode(shared: &Arc<Shared>, image: &InputImage) -> Result<Option<Picture>, Failure> {
    let failed = |source| SandboxError::Memory { name: image.name.clone(), source };
    let file = image.picture.file().map_err(failed)?;
    if !matches!(image::guess_format(&file), Ok(ImageFormat::Jpeg)) {
        return Ok(None);
    }
    let request = Request::new(json!({"decode": true}))?;
    let deadline = Instant::now() + shared.options.timeout;
    let setup = image.picture.set_up(&image.name, image.size);
    let mut process = Process::begin(shared, &setup, &request, deadline)?;
    let read = pixels_of(&mut process, request.nonce(), image.size, deadline);
    process.end();
    let [pillow, opencv] = read?;
    let pixels = Pixels::Decoded { pillow: pillow.as_deref(), opencv: opencv.as_deref() };
    Ok(Some(Picture::new(&file, &pixels).map_err(failed)?))
}

/// The pixels of the answer, as Pillow and as OpenCV has them.
fn pixels_of(
    process: &mut Process,
    nonce: &str,
    size: (u32, u32),
    deadline: Instant,
) -> Result<[Option<Vec<u8>>; 2], Ended> {
    let header = process.read_header(deadline, HEADER_BYTES)?;
    let (forms, lengths): (Vec<Form>, Vec<u64>) = Decoded::read(&header, nonce, size)?.into_iter().unzip();
    let (mut pillow, mut opencv) = (None, None);
    for (form, pixels) in forms.into_iter().zip(process.read_blobs(deadline, &lengths)?) {
        match form {
            Form::Pillow => pillow = Some(pixels),
            Form::Opencv => opencv = Some(pixels),
        }
    }
    Ok([pillow, opencv])
}
