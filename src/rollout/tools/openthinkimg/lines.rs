//! `DrawHorizontalLineByY` and `DrawVerticalLineByX` (`DrawHorizontalLineByY_worker.py`, `DrawVerticalLineByX_worker.py`).

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

use super::call::{OpenThinkImgSettings, param, schema};
use crate::image_ops::{Direction, Line, draw_lines};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};
use crate::rollout::tools::pure::{Made, PureTool};

/// Lines of one call.
const LINES_MAX: usize = 100;

/// The tools `DrawHorizontalLineByY` and `DrawVerticalLineByX`: dashed lines across the image at places in percent, `y=28.5` or `x=21.5`, or
/// several, `y1=10 y2=20`. A place with a coordinate above 100 is left out. What differs: the picture keeps its size, where the original's is
/// drawn anew by matplotlib; a line at 100 is seen, at the edge; a place without the line's own coordinate is none, where the original draws
/// at 0.
#[derive(Clone, Debug)]
pub struct DrawLine {
    name: &'static str,
    direction: Direction,
    settings: OpenThinkImgSettings,
    /// What a coordinate looks like: its letter, number and value.
    form: Regex,
}

impl DrawLine {
    /// The name of horizontal lines in calls.
    pub const HORIZONTAL: &'static str = "DrawHorizontalLineByY";
    /// The name of vertical lines in calls.
    pub const VERTICAL: &'static str = "DrawVerticalLineByX";

    /// The tool `DrawHorizontalLineByY`.
    pub fn horizontal(settings: OpenThinkImgSettings) -> Self {
        Self::new(Self::HORIZONTAL, Direction::Horizontal, settings)
    }

    /// The tool `DrawVerticalLineByX`.
    pub fn vertical(settings: OpenThinkImgSettings) -> Self {
        Self::new(Self::VERTICAL, Direction::Vertical, settings)
    }

    fn new(name: &'static str, direction: Direction, settings: OpenThinkImgSettings) -> Self {
        let form = r#"([xy])([0-9]*)=\s*"?([0-9]+(?:\.[0-9]+)?)"#;
        Self { name, direction, settings, form: Regex::new(form).expect("a pattern that compiles") }
    }

    /// The letter of the lines' own coordinate.
    fn letter(&self) -> &'static str {
        match self.direction {
            Direction::Horizontal => "y",
            Direction::Vertical => "x",
        }
    }

    /// Where lines are asked for, in percent: by the numbers of coordinates, or, where none has a number, at the one place without.
    fn places(&self, param: &str) -> Vec<f64> {
        let (mut own, mut other) = (BTreeMap::new(), BTreeMap::new());
        for coordinate in self.form.captures_iter(param) {
            let number = coordinate[2].parse::<u64>().ok();
            let value = coordinate[3].parse::<f64>().unwrap_or(f64::INFINITY);
            let same = if &coordinate[1] == self.letter() { &mut own } else { &mut other };
            same.insert(number, value);
        }
        let mut numbers: BTreeSet<Option<u64>> = own.keys().chain(other.keys()).copied().collect();
        if numbers.iter().any(Option::is_some) {
            numbers.remove(&None);
        }
        let of = |values: &BTreeMap<Option<u64>, f64>, number: &Option<u64>| {
            values.get(number).or_else(|| values.get(&None)).copied()
        };
        let place = |number: &Option<u64>| {
            let is_within = of(&other, number).unwrap_or(0.0) <= 100.0;
            of(&own, number).filter(|value| *value <= 100.0 && is_within)
        };
        numbers.iter().filter_map(place).collect()
    }
}

impl PureTool for DrawLine {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let param = param(arguments)?;
        let image = self.settings.image(self.name, arguments, images)?;
        let failed = |why: String| format!("Error when drawing line: {why}");
        let places = self.places(&param);
        match places.len() {
            0 => return Err("No valid points extracted.".to_owned()),
            1..=LINES_MAX => {}
            count => return Err(failed(format!("{count} lines are asked for; give at most {LINES_MAX}"))),
        }
        let lines: Vec<Line> = places.into_iter().map(|percent| Line::new(self.direction, percent)).collect();
        let drawn = draw_lines(&image, &lines).map_err(|error| failed(error.to_string()))?;
        Ok(Made::image("Line drawn successfully.", drawn))
    }
}

impl Tool for DrawLine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Option<Value> {
        let (description, place) = match self.direction {
            Direction::Horizontal => (
                "Draws a horizontal line across the image, to compare heights or to read a value on the y-axis.",
                "Where: \"y=28.5\" is 28.5 percent of the height from the top.",
            ),
            Direction::Vertical => (
                "Draws a vertical line across the image, to compare places or to read a value on the x-axis.",
                "Where: \"x=21.5\" is 21.5 percent of the width from the left.",
            ),
        };
        Some(schema(self.name, description, place))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_the_original_reads_them() {
        let (horizontal, vertical) = (DrawLine::horizontal(Default::default()), DrawLine::vertical(Default::default()));
        for (param, ys, xs) in [
            ("y=28.5", vec![28.5], vec![]),
            ("x=21.5", vec![], vec![21.5]),
            ("x=\"21.5\" y=\"28.5\"", vec![28.5], vec![21.5]),
            ("x1=\"10\" y1=\"20\" x2=\"30\" y2=\"40\"", vec![20.0, 40.0], vec![10.0, 30.0]),
            ("y1=20 y2=40 x=7", vec![20.0, 40.0], vec![7.0, 7.0]),
            ("y1=20 y=40", vec![20.0], vec![]),
            ("y=10 y=20", vec![20.0], vec![]),
            ("x=150 y=20", vec![], vec![]),
            ("y=100", vec![100.0], vec![]),
            ("y=100.5", vec![], vec![]),
            ("y = 28.5", vec![], vec![]),
            ("y= 28.5", vec![28.5], vec![]),
            ("y=-3", vec![], vec![]),
            ("the line y=.5", vec![], vec![]),
            ("", vec![], vec![]),
        ] {
            assert_eq!((horizontal.places(param), vertical.places(param)), (ys, xs), "{param}");
        }
    }
}
