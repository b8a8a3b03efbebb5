//! PNG as Pillow reads it: what it forgives (no IEND, bad checksums of the pixels' chunks, nothing behind the last row), what it refuses (bad
//! checksums before the pixels, missing rows), and what it makes of pixels that are neither RGB nor 8 bits. Of an animation it is the default
//! picture.

use ::image::RgbImage;
use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::image_problem::{ImageProblem, check_size, damaged};

/// What every PNG begins with.
pub const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

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
    let mut rows = Rows { inflate: Decompress::new(true), pieces, is_over: false };
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

/// What a pixel has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Grey,
    Rgb,
    Palette,
    GreyAlpha,
    Rgba,
}

impl Colour {
    fn channels(self) -> usize {
        match self {
            Colour::Grey | Colour::Palette => 1,
            Colour::GreyAlpha => 2,
            Colour::Rgb => 3,
            Colour::Rgba => 4,
        }
    }
}

/// What the header says.
#[derive(Clone, Copy)]
struct Form {
    width: u32,
    height: u32,
    /// Bits of a channel.
    bits: usize,
    colour: Colour,
    is_interlaced: bool,
}

impl Form {
    fn read(data: &[u8]) -> Result<Form, ImageProblem> {
        let Some(&[w0, w1, w2, w3, h0, h1, h2, h3, bits, colour, _, filter, interlace]) = data.first_chunk::<13>()
        else {
            return Err(damaged("its IHDR is short"));
        };
        if filter != 0 {
            return Err(damaged(&format!("its filter method is {filter}")));
        }
        let colour = match (colour, bits) {
            (0, 1 | 2 | 4 | 8 | 16) => Colour::Grey,
            (2, 8 | 16) => Colour::Rgb,
            (3, 1 | 2 | 4 | 8) => Colour::Palette,
            (4, 8 | 16) => Colour::GreyAlpha,
            (6, 8 | 16) => Colour::Rgba,
            _ => return Err(damaged(&format!("it has {bits} bits of colour type {colour}"))),
        };
        let number = |bytes| u32::from_be_bytes(bytes);
        Ok(Form {
            width: number([w0, w1, w2, w3]),
            height: number([h0, h1, h2, h3]),
            bits: bits.into(),
            colour,
            is_interlaced: interlace != 0,
        })
    }

    /// Bytes of a row of so many pixels.
    fn row_bytes(&self, pixels: usize) -> usize {
        (pixels * self.colour.channels() * self.bits).div_ceil(8)
    }
}

/// A file as far as it is read.
struct File<'a> {
    bytes: &'a [u8],
    /// Where the next chunk begins.
    at: usize,
    form: Form,
    palette: [[u8; 3]; 256],
    exif: Option<Vec<u8>>,
    is_animated: bool,
    oddities: Vec<&'static str>,
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
    fn read_head(bytes: &'a [u8]) -> Result<File<'a>, ImageProblem> {
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
    fn read_pieces(&mut self) -> Vec<&'a [u8]> {
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
    fn read_tail(&mut self) -> Result<(), ImageProblem> {
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

/// The rows in their compressed stream.
struct Rows<'a> {
    inflate: Decompress,
    /// What is left of it, the next piece last.
    pieces: Vec<&'a [u8]>,
    /// The stream ended before all rows came.
    is_over: bool,
}

impl Rows<'_> {
    /// Reads a row, its filter first; false where the stream ended with the row before.
    fn read(&mut self, row: &mut [u8]) -> Result<bool, ImageProblem> {
        let mut filled = 0;
        while filled < row.len() && !self.is_over {
            let (written, status) = self.step(&mut row[filled..])?;
            filled += written;
            match status {
                Status::StreamEnd => self.is_over = filled < row.len(),
                _ if written == 0 && self.pieces.is_empty() => break,
                _ => {}
            }
        }
        match filled {
            0 if self.is_over && self.inflate.total_out() > 0 => Ok(false),
            _ if filled == row.len() => Ok(true),
            _ => Err(damaged("its pixels are not all there")),
        }
    }

    /// Whether the stream's own checksum comes behind the last row, or more rows.
    fn ends_well(&mut self) -> Result<bool, ImageProblem> {
        let mut more = [0];
        loop {
            let (written, status) = self.step(&mut more)?;
            if written > 0 || status == Status::StreamEnd {
                return Ok(true);
            }
            if self.pieces.is_empty() {
                return Ok(false);
            }
        }
    }

    /// Inflates from the next piece.
    fn step(&mut self, out: &mut [u8]) -> Result<(usize, Status), ImageProblem> {
        let piece = self.pieces.pop().unwrap_or_default();
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(piece, out, FlushDecompress::None);
        let status = status.map_err(|_| damaged("the stream of its pixels is broken"))?;
        let rest = &piece[(self.inflate.total_in() - read) as usize..];
        if !rest.is_empty() {
            self.pieces.push(rest);
        }
        Ok(((self.inflate.total_out() - written) as usize, status))
    }
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

/// Takes a filter back (PNG specification, section 9); `above` is the row above it in its pass.
fn unfilter(filter: u8, row: &mut [u8], above: &[u8], pixel_bytes: usize) -> Result<(), ImageProblem> {
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

/// The colours of a row's pixels. Of 16 bits the upper 8 count, but in grey, where Pillow clips.
fn colour<'a>(form: &Form, palette: &[[u8; 3]; 256], row: &[u8], places: impl Iterator<Item = &'a mut [u8; 3]>) {
    let places = places.enumerate();
    let packed = |i: usize| {
        let at = i * form.bits;
        row[at / 8] >> (8 - form.bits - at % 8) & (u8::MAX >> (8 - form.bits))
    };
    let high = |channels: usize, i: usize, channel: usize| row[(i * channels + channel) * (form.bits / 8)];
    match (form.colour, form.bits) {
        (Colour::Grey, 16) => {
            places.for_each(|(i, place)| *place = [if row[2 * i] > 0 { 255 } else { row[2 * i + 1] }; 3]);
        }
        (Colour::Grey, bits) => {
            let step = u8::MAX / (u8::MAX >> (8 - bits));
            places.for_each(|(i, place)| *place = [packed(i) * step; 3]);
        }
        (Colour::Palette, _) => places.for_each(|(i, place)| *place = palette[usize::from(packed(i))]),
        (Colour::Rgb, 8) => places.for_each(|(i, place)| *place = row.as_chunks().0[i]),
        (Colour::Rgb, _) => places.for_each(|(i, place)| *place = [0, 1, 2].map(|channel| high(3, i, channel))),
        // Pillow drops this alpha, and takes 16 bits of both for RGB with alpha.
        (Colour::GreyAlpha, 8) => places.for_each(|(i, place)| *place = [row[2 * i]; 3]),
        (Colour::GreyAlpha, _) => {
            places.for_each(|(i, place)| *place = over_white([high(2, i, 0); 3], high(2, i, 1)));
        }
        (Colour::Rgba, _) => {
            let rgb = |i| [0, 1, 2].map(|channel| high(4, i, channel));
            places.for_each(|(i, place)| *place = over_white(rgb(i), high(4, i, 3)));
        }
    }
}

/// A colour laid over white.
pub fn over_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|level| ((u32::from(level) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
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
