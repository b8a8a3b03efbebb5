//! Lines and rectangles.

use std::ops::Range;
use std::sync::Arc;

use image::{Rgb, RgbImage};

use super::error::{ImageOpError, check_area, check_not_empty};

/// The colour of lines, `#e6194b`.
pub const LINE_COLOUR: Rgb<u8> = Rgb([0xe6, 0x19, 0x4b]);
/// The width of lines in pixels.
pub const LINE_WIDTH: u32 = 2;

/// Which way a line runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From left to right.
    Horizontal,
    /// From top to bottom.
    Vertical,
}

/// A line across the whole picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Which way it runs.
    pub direction: Direction,
    /// Where its middle is: percent of the height from the top, or of the width from the left.
    pub percent: f64,
    /// Its width in pixels.
    pub width: u32,
    /// Whether it is interrupted: 3.7 widths of line and 1.6 widths of gap by turns, each rounded to pixels, the first line at the left or top edge.
    /// (matplotlib's pattern of `--`; 7 and 3 pixels at a width of 2.)
    pub is_dashed: bool,
    /// Its colour.
    pub colour: Rgb<u8>,
}

impl Line {
    /// A dashed line of [`LINE_WIDTH`] and [`LINE_COLOUR`].
    pub fn new(direction: Direction, percent: f64) -> Self {
        Self { direction, percent, width: LINE_WIDTH, is_dashed: true, colour: LINE_COLOUR }
    }
}

/// The picture with lines across, drawn in their order on one copy. A line beside the edge is moved in, so that its whole width shows. Where no
/// line has a width, the picture is not copied.
///
/// # Errors
/// When the picture is empty, or a place is not 0 to 100 percent.
pub fn draw_lines(picture: &Arc<RgbImage>, lines: &[Line]) -> Result<Arc<RgbImage>, ImageOpError> {
    check_not_empty(picture)?;
    if let Some(line) = lines.iter().find(|line| !(0.0..=100.0).contains(&line.percent)) {
        let wanted = "0 to 100 percent";
        return Err(ImageOpError::Number { name: "place of the line", value: line.percent, wanted });
    }
    if lines.iter().all(|line| line.width == 0) {
        return Ok(picture.clone());
    }
    let mut drawn = RgbImage::clone(picture);
    lines.iter().for_each(|line| draw_line(&mut drawn, line));
    Ok(Arc::new(drawn))
}

fn draw_line(drawn: &mut RgbImage, line: &Line) {
    let (length, side) = match line.direction {
        Direction::Horizontal => drawn.dimensions(),
        Direction::Vertical => (drawn.height(), drawn.width()),
    };
    let width = line.width.min(side);
    let start = (line.percent / 100.0 * f64::from(side) - f64::from(width) / 2.0).round();
    let start = start.clamp(0.0, f64::from(side - width)) as u32;
    let (dash, gap) = if line.is_dashed { (tenths(37, width), tenths(16, width)) } else { (u64::from(length), 1) };
    for at in (0..u64::from(length)).step_by((dash + gap).max(1) as usize) {
        let along = at as u32..(at + dash).min(length.into()) as u32;
        match line.direction {
            Direction::Horizontal => fill(drawn, along, start..start + width, line.colour),
            Direction::Vertical => fill(drawn, start..start + width, along, line.colour),
        }
    }
}

/// The picture with the outline of a box of left, top, right and bottom in pixels, right and bottom not included. The line lies within the box:
/// `ImageDraw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)`, but for a line that is wider than half the box, which
/// fills it. A width of 0 draws nothing.
///
/// # Errors
/// When the box is empty or does not lie within the picture.
pub fn draw_rectangle(
    picture: &Arc<RgbImage>,
    area: [u32; 4],
    width: u32,
    colour: Rgb<u8>,
) -> Result<Arc<RgbImage>, ImageOpError> {
    check_area(picture, area)?;
    if width == 0 {
        return Ok(picture.clone());
    }
    let [left, top, right, bottom] = area;
    let (across, down) = (width.min(right - left), width.min(bottom - top));
    let mut drawn = RgbImage::clone(picture);
    fill(&mut drawn, left..right, top..top + down, colour);
    fill(&mut drawn, left..right, bottom - down..bottom, colour);
    fill(&mut drawn, left..left + across, top..bottom, colour);
    fill(&mut drawn, right - across..right, top..bottom, colour);
    Ok(Arc::new(drawn))
}

/// So many tenths of a width, rounded.
fn tenths(tenths: u64, width: u32) -> u64 {
    (tenths * u64::from(width) + 5) / 10
}

/// Paints a box of columns and rows that lies within the picture.
pub(super) fn fill(picture: &mut RgbImage, columns: Range<u32>, rows: Range<u32>, colour: Rgb<u8>) {
    let width = picture.width() as usize;
    let (pixels, _) = picture.as_chunks_mut::<3>();
    for row in rows {
        let row = &mut pixels[row as usize * width..][..width];
        row[columns.start as usize..columns.end as usize].fill(colour.0);
    }
}
