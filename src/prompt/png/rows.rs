//! The rows of a PNG in their compressed stream.

use flate2::{Decompress, FlushDecompress, Status};

use super::super::image_problem::{ImageProblem, damaged};

/// The rows in their compressed stream.
pub(super) struct Rows<'a> {
    inflate: Decompress,
    /// What is left of it, the next piece last.
    pieces: Vec<&'a [u8]>,
    /// The stream ended before all rows came.
    pub(super) is_over: bool,
}

impl<'a> Rows<'a> {
    /// The rows of the stream that `pieces` hold, the next piece last.
    pub(super) fn new(pieces: Vec<&'a [u8]>) -> Rows<'a> {
        Rows { inflate: Decompress::new(true), pieces, is_over: false }
    }

    /// Reads a row, its filter first; false where the stream ended with the row before.
    pub(super) fn read(&mut self, row: &mut [u8]) -> Result<bool, ImageProblem> {
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
    pub(super) fn ends_well(&mut self) -> Result<bool, ImageProblem> {
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
