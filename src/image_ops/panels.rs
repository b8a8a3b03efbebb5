//! The panels of a figure: charts side by side in one picture.

use std::cmp::Reverse;
use std::sync::Arc;

use image::{Rgb, RgbImage};

use super::draw::fill;
use super::edges::{EdgeMap, edges};
use super::error::{ImageOpError, check_area, check_not_empty};

/// Outlines that are looked at: the longest.
const OUTLINES: usize = 10;
/// By how many pixels at most a panel's width and height together differ from those of the longest outline, and by how many at least one of
/// its sides is off those of any other panel.
const TOLERANCE: u32 = 10;

/// The boxes (left, top, right, bottom in pixels, right and bottom not included) of a figure's panels in reading order, at most ten: row by
/// row from the top, each from the left. A panel lies in the row of another whose top is above its own if it begins above that one's middle.
///
/// It is the rule of OpenThinkIMG (`get_sorted_bbox` in `SelectSubplot_worker.py`) with OpenCV's results: of the ten longest outlines of the
/// picture's edges that lie within no other, those whose width and height together are within 10 pixels of the longest's. Outlines are
/// followed for their lengths and boxes; their points are not kept.
///
/// # Errors
/// When the picture is empty.
pub fn panels(picture: &RgbImage) -> Result<Vec<[u32; 4]>, ImageOpError> {
    check_not_empty(picture)?;
    let mut outlines = outlines(edges(picture));
    // Of equal ones OpenCV has the lowest first.
    outlines.reverse();
    outlines.sort_by_key(|outline| Reverse(outline.length));
    outlines.truncate(OUTLINES);
    let sides = |[left, top, right, bottom]: [u32; 4]| right - left + bottom - top;
    let Some(longest) = outlines.first().map(|outline| sides(outline.area)) else { return Ok(Vec::new()) };
    let mut panels: Vec<[u32; 4]> = Vec::new();
    for Outline { area, .. } in outlines {
        let is_near = |other: &[u32; 4]| (0..4).all(|side| area[side].abs_diff(other[side]) < TOLERANCE);
        let is_large = sides(area) + TOLERANCE > longest && sides(area) <= longest + TOLERANCE;
        if is_large && !panels.iter().any(is_near) {
            panels.push(area);
        }
    }
    Ok(in_reading_order(panels))
}

fn in_reading_order(mut panels: Vec<[u32; 4]>) -> Vec<[u32; 4]> {
    panels.sort_by_key(|&[left, top, ..]| (top, left));
    let mut rows: Vec<Vec<[u32; 4]>> = Vec::new();
    for panel in panels {
        let belongs = |row: &Vec<[u32; 4]>| row.first().is_some_and(|[_, top, _, bottom]| panel[1] * 2 < top + bottom);
        match rows.last_mut().filter(|row| belongs(row)) {
            Some(row) => row.push(panel),
            None => rows.push(vec![panel]),
        }
    }
    rows.iter_mut().for_each(|row| row.sort_by_key(|&[left, top, ..]| (left, top)));
    rows.concat()
}

/// The figure with all panels but one white. As in the original, the white reaches one pixel beyond a panel's right and bottom.
///
/// # Errors
/// When a panel does not lie within the picture.
pub fn only_panel(picture: &Arc<RgbImage>, panels: &[[u32; 4]], shown: usize) -> Result<Arc<RgbImage>, ImageOpError> {
    let others = panels.iter().enumerate().filter(|(number, _)| *number != shown);
    let others: Vec<[u32; 4]> = others.map(|(_, area)| *area).collect();
    if others.is_empty() {
        return Ok(picture.clone());
    }
    let mut painted = RgbImage::clone(picture);
    for area in others {
        check_area(picture, area)?;
        let [left, top, right, bottom] = area;
        let (right, bottom) = ((right + 1).min(picture.width()), (bottom + 1).min(picture.height()));
        fill(&mut painted, left..right, top..bottom, Rgb([255; 3]));
    }
    Ok(Arc::new(painted))
}

/// The outer border of edges that touch each other.
struct Outline {
    /// Left, top, right, bottom in pixels.
    area: [u32; 4],
    /// Steps from pixel to pixel on the way around.
    length: usize,
}

/// An edge that an outline has passed, and one from which it saw nothing on the right.
const PASSED: i8 = 2;
const PASSED_ON_THE_RIGHT: i8 = -2;

/// The outlines that lie within no other, by their topmost pixels, of these the leftmost, in rows from the top: the outer borders of
/// Suzuki and Abe, 1985 (Topological structural analysis of digitized binary images by border following, algorithm 2).
fn outlines(mut map: EdgeMap) -> Vec<Outline> {
    let mut found = Vec::new();
    for first in (map.stride..map.marks.len()).step_by(map.stride) {
        let mut is_outside = true;
        for at in first + 1..first + map.stride {
            if is_outside && map.marks[at] == 1 && map.marks[at - 1] == 0 {
                found.push(map.follow(at));
            }
            match map.marks[at] {
                0 | 1 => {}
                mark => is_outside = mark == PASSED_ON_THE_RIGHT,
            }
        }
    }
    found
}

impl EdgeMap {
    /// Follows the outline whose topmost and, of these, leftmost pixel is at `start`, and marks what it passes.
    fn follow(&mut self, start: usize) -> Outline {
        let stride = self.stride;
        let line = stride as isize;
        // Counter-clockwise from the right.
        let ways = [1, 1 - line, -line, -line - 1, -1, line - 1, line, line + 1];
        let beside = |at: usize, way: usize| at.wrapping_add_signed(ways[way % 8]);
        let (x, y) = (|at: usize| (at % stride - 1) as u32, |at: usize| (at / stride - 1) as u32);
        let mut outline = Outline { area: [x(start), y(start), x(start) + 1, y(start) + 1], length: 0 };
        // The last pixel of the way around: the first clockwise from the left, where there is none.
        let Some(last_way) = (1..8).map(|turn| 12 - turn).find(|way| self.marks[beside(start, *way)] != 0) else {
            self.marks[start] = PASSED_ON_THE_RIGHT;
            return Outline { length: 1, ..outline };
        };
        let last = beside(start, last_way);
        let (mut at, mut from) = (start, last_way % 8);
        loop {
            let way = (from + 1..=from + 8).find(|way| self.marks[beside(at, *way)] != 0).unwrap_or(from);
            // The right is the eighth way.
            if way > 8 {
                self.marks[at] = PASSED_ON_THE_RIGHT;
            } else if self.marks[at] == 1 {
                self.marks[at] = PASSED;
            }
            outline.length += 1;
            let (column, row) = (x(at), y(at));
            let [left, top, right, bottom] = outline.area;
            outline.area = [left.min(column), top.min(row), right.max(column + 1), bottom.max(row + 1)];
            let next = beside(at, way);
            if next == start && at == last {
                return outline;
            }
            (at, from) = (next, (way + 4) % 8);
        }
    }
}
