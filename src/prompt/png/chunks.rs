//! The chunks of a PNG: what each says, and which Pillow refuses.

use flate2::Crc;

use super::super::image_problem::{ImageProblem, damaged};
use super::header::{Colour, Form};

/// What every PNG begins with.
pub const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A file as far as it is read.
pub(super) struct File<'a> {
    bytes: &'a [u8],
    /// Where the next chunk begins.
    at: usize,
    pub(super) form: Form,
    pub(super) palette: [[u8; 3]; 256],
    pub(super) exif: Option<Vec<u8>>,
    is_animated: bool,
    pub(super) oddities: Vec<&'static str>,
}

/// The beginning of a chunk.
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: [u8; 4],
}

impl Head {
    fn is_named(&self) -> bool {
        self.kind.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn name(&self) -> String {
        self.kind.escape_ascii().to_string()
    }
}

impl<'a> File<'a> {
    /// Reads what stands before the pixels.
    pub(super) fn read_head(bytes: &'a [u8]) -> Result<File<'a>, ImageProblem> {
        let form = Form { width: 0, height: 0, bits: 8, colour: Colour::Grey, is_interlaced: false };
        let mut file = File {
            bytes,
            at: MAGIC.len(),
            form,
            palette: [[0; 3]; 256],
            exif: None,
            is_animated: false,
            oddities: Vec::new(),
        };
        loop {
            let head = file.head().ok_or_else(|| damaged("it ends before its pixels"))?;
            match &head.kind {
                b"IDAT" => return Ok(file),
                b"IEND" => return Err(damaged("it has no pixels")),
                _ if !head.is_named() => return Err(damaged(&format!("it has a chunk {:?}", head.name()))),
                _ => {}
            }
            let data = file.data(head).ok_or_else(|| damaged(&format!("it ends within its {} chunk", head.name())))?;
            if file.checksum(head) != Some(checksum(head, data)) {
                return Err(damaged(&format!("the checksum of its {} chunk is wrong", head.name())));
            }
            file.take(head, data)?;
            file.skip(head);
        }
    }

    fn head(&self) -> Option<Head> {
        let &[a, b, c, d, kind @ ..] = self.bytes.get(self.at..)?.first_chunk::<8>()?;
        Some(Head { length: u32::from_be_bytes([a, b, c, d]) as usize, kind })
    }

    /// A chunk's data, if the file has all of them.
    fn data(&self, head: Head) -> Option<&'a [u8]> {
        self.bytes.get(self.at + 8..)?.get(..head.length)
    }

    fn checksum(&self, head: Head) -> Option<u32> {
        self.bytes.get(self.at + 8 + head.length..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn skip(&mut self, head: Head) {
        self.at = (self.at + 12 + head.length).min(self.bytes.len());
    }

    /// Takes what a chunk says, and refuses what Pillow refuses in it.
    fn take(&mut self, head: Head, data: &[u8]) -> Result<(), ImageProblem> {
        let method = |at: Option<usize>| at.and_then(|at| data.get(at + 1));
        let name_end = data.iter().position(|&byte| byte == 0);
        let least = match &head.kind {
            b"IHDR" => {
                self.form = Form::read(data)?;
                13
            }
            b"PLTE" => {
                if self.form.colour == Colour::Palette {
                    self.palette.iter_mut().zip(data.as_chunks().0).for_each(|(entry, colour)| *entry = *colour);
                }
                0
            }
            b"eXIf" => {
                self.exif = Some(data.to_vec());
                0
            }
            b"acTL" => {
                self.is_animated = data.get(..4).is_some_and(|frames| frames > &[0, 0, 0, 1][..]);
                8
            }
            b"iCCP" if method(name_end) != Some(&0) => return Err(damaged("its colour profile has no known method")),
            b"zTXt" if method(name_end).is_some_and(|&method| method != 0) => {
                return Err(damaged("its compressed text has no known method"));
            }
            b"tRNS" => match self.form.colour {
                Colour::Grey => 2,
                Colour::Rgb => 6,
                _ => 0,
            },
            b"sRGB" => 1,
            b"gAMA" => 4,
            b"pHYs" => 9,
            b"cHRM" => 32,
            b"fcTL" => 26,
            _ => 0,
        };
        match data.len() < least {
            true => Err(damaged(&format!("its {} chunk is short", head.name()))),
            false => Ok(()),
        }
    }

    /// The chunks of pixels, which stand one behind the other; the last as far as the file goes.
    pub(super) fn read_pieces(&mut self) -> Vec<&'a [u8]> {
        let (mut pieces, mut is_checked) = (Vec::new(), true);
        while let Some(head) = self.head().filter(|head| &head.kind == b"IDAT") {
            let data = self.data(head).unwrap_or(&self.bytes[self.at + 8..]);
            is_checked &= self.checksum(head).is_none_or(|found| found == checksum(head, data));
            pieces.push(data);
            self.skip(head);
        }
        if !is_checked {
            self.oddities.push("the checksum of a chunk of its pixels is wrong");
        }
        // The first is read from its front to its end.
        pieces.reverse();
        pieces
    }

    /// Reads what stands behind the pixels.
    pub(super) fn read_tail(&mut self) -> Result<(), ImageProblem> {
        while let Some(head) = self.head().filter(Head::is_named) {
            if &head.kind == b"IEND" || (&head.kind == b"fcTL" && self.is_animated) {
                return Ok(());
            }
            let data = self.data(head).ok_or_else(|| damaged(&format!("it ends within its {} chunk", head.name())))?;
            self.take(head, data)?;
            self.skip(head);
        }
        self.oddities.push("it ends without an IEND chunk");
        Ok(())
    }
}

fn checksum(head: Head, data: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(&head.kind);
    crc.update(data);
    crc.sum()
}
