//! An input picture as every session of it finds it: one sealed piece of memory with the file and, where they are known, the pixels as Pillow
//! and OpenCV hold them. Sessions are sent its descriptor and map it privately, so that no one can change what others see. `picture.py` is the
//! other end.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use image::RgbImage;
use serde_json::json;

use super::memory;
use super::set_up::SetUp;
use super::zygote::Kind;

/// Pixels of larger pictures are not kept: each session decodes them itself.
const PIXELS_MAX: u64 = 1 << 24;
/// Where parts may begin: a multiple of any page's size.
const ALIGNMENT: u64 = 1 << 16;
/// Bytes of a pixel as Pillow holds it (red, green, blue, 255), and as OpenCV does (blue, green, red).
pub(super) const PILLOW_BYTES: u64 = 4;
pub(super) const OPENCV_BYTES: u64 = 3;

/// The memory, and where its parts lie. The file is its start.
#[derive(Debug)]
pub(super) struct Picture {
    memory: OwnedFd,
    file_bytes: u64,
    pillow: Option<u64>,
    opencv: Option<u64>,
}

/// The pixels of a picture.
pub(super) enum Pixels<'a> {
    /// Not known here.
    Unknown,
    /// Those that every decoder gives.
    Exact(&'a RgbImage),
    /// As one library or the other decoded them: four and three bytes a pixel.
    Decoded { pillow: Option<&'a [u8]>, opencv: Option<&'a [u8]> },
}

impl Picture {
    /// Lays out the file of a picture and its pixels, if they are not too many.
    pub(super) fn new(file: &[u8], pixels: &Pixels<'_>) -> io::Result<Picture> {
        let mut parts = Parts { file: memory::unsealed("thyme-picture")?, end: 0 };
        parts.add(|to| to.write_all(file))?;
        let (pillow, opencv) = match pixels {
            Pixels::Exact(image) if is_kept(image.dimensions()) => {
                let pillow = parts.add(|to| write_pixels(image, to, |[r, g, b]| [r, g, b, 255]))?;
                let opencv = parts.add(|to| write_pixels(image, to, |[r, g, b]| [b, g, r]))?;
                (Some(pillow), Some(opencv))
            }
            Pixels::Unknown | Pixels::Exact(_) => (None, None),
            Pixels::Decoded { pillow, opencv } => {
                let mut add = |part: &Option<&[u8]>| part.map(|bytes| parts.add(|to| to.write_all(bytes))).transpose();
                (add(pillow)?, add(opencv)?)
            }
        };
        let memory = memory::sealed(parts.file)?;
        Ok(Picture { memory, file_bytes: file.len() as u64, pillow, opencv })
    }

    /// The set-up of a session that finds it under this name.
    pub(super) fn set_up(&self, name: &str, (width, height): (u32, u32)) -> SetUp<'_> {
        let header = json!({
            "name": name, "size": [width, height],
            "file_bytes": self.file_bytes, "pillow": self.pillow, "opencv": self.opencv,
        });
        SetUp { kind: Kind::Session, header, memory: self.memory.as_fd() }
    }

    /// Whether pixels are there.
    pub(super) fn has_pixels(&self) -> bool {
        self.pillow.is_some() || self.opencv.is_some()
    }

    /// The file, read back.
    pub(super) fn file(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.file_bytes as usize];
        std::os::unix::fs::FileExt::read_exact_at(&File::from(self.memory.try_clone()?), &mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Whether the pixels of a picture of this width and height are kept.
pub(super) fn is_kept((width, height): (u32, u32)) -> bool {
    u64::from(width) * u64::from(height) <= PIXELS_MAX
}

/// The memory while it is laid out.
struct Parts {
    file: File,
    end: u64,
}

impl Parts {
    /// Adds a part, and gives its place.
    fn add(&mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<u64> {
        let begin = self.end.next_multiple_of(ALIGNMENT);
        self.file.seek(SeekFrom::Start(begin))?;
        write(&mut self.file)?;
        self.end = self.file.stream_position()?;
        Ok(begin)
    }
}

/// Writes pixels in another form, a row at a time.
fn write_pixels<const N: usize>(image: &RgbImage, to: &mut File, form: impl Fn([u8; 3]) -> [u8; N]) -> io::Result<()> {
    let mut line = vec![0; image.width() as usize * N];
    for row in image.rows() {
        for (pixel, place) in row.zip(line.chunks_exact_mut(N)) {
            place.copy_from_slice(&form(pixel.0));
        }
        to.write_all(&line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_parts_lie_where_the_set_up_says_and_nobody_can_change_them() {
        let image = RgbImage::from_raw(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let picture = Picture::new(b"a file", &Pixels::Exact(&image)).unwrap();
        let said = picture.set_up("a.png", (1, 2));
        let memory = File::from(said.memory.try_clone_to_owned().unwrap());
        let said = said.header;
        let at = |place: &serde_json::Value, bytes: usize| {
            let mut part = vec![0; bytes];
            memory.read_exact_at(&mut part, place.as_u64().unwrap()).unwrap();
            part
        };
        assert_eq!(at(&said["pillow"], 8), [1, 2, 3, 255, 4, 5, 6, 255]);
        assert_eq!(at(&said["opencv"], 6), [3, 2, 1, 6, 5, 4]);
        assert_eq!(said["file_bytes"], 6);
        assert_eq!(at(&serde_json::json!(0), 6), b"a file");
        assert_eq!(said["pillow"].as_u64().unwrap() % 4096 + said["opencv"].as_u64().unwrap() % 4096, 0);
        assert!(memory.write_at(b"x", 0).is_err() && memory.set_len(1).is_err() && memory.set_len(1 << 20).is_err());
        assert!(!Picture::new(b"a file", &Pixels::Unknown).unwrap().has_pixels());
    }
}
