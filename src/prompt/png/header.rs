//! The header of a PNG: its size, and what its pixels have.

use super::super::image_problem::{ImageProblem, damaged};

/// What a pixel has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Grey,
    Rgb,
    Palette,
    GreyAlpha,
    Rgba,
}

impl Colour {
    pub(super) fn channels(self) -> usize {
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
pub(super) struct Form {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bits of a channel.
    pub(super) bits: usize,
    pub(super) colour: Colour,
    pub(super) is_interlaced: bool,
}

impl Form {
    pub(super) fn read(data: &[u8]) -> Result<Form, ImageProblem> {
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
    pub(super) fn row_bytes(&self, pixels: usize) -> usize {
        (pixels * self.colour.channels() * self.bits).div_ceil(8)
    }
}
