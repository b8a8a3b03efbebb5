//! Tools whose sessions remember nothing: a call is a function of its arguments and of the trajectory's images.

use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
use serde_json::Value;

use super::boxes;
use crate::image_ops::{self, Filter};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{CallStatus, Tool, ToolFault, ToolImage, ToolOutput, ToolSession};

/// Pixels at most of an image that a call makes larger (192 MiB): what the model asks for must not fill the memory.
pub(super) const PIXELS_MAX: u64 = 1 << 26;

/// What a call made.
#[derive(Debug)]
pub(super) struct Made {
    pub text: String,
    pub images: Vec<Arc<RgbImage>>,
}

impl Made {
    /// A text and one image.
    pub fn image(text: impl Into<String>, image: Arc<RgbImage>) -> Self {
        Self { text: text.into(), images: vec![image] }
    }
}

/// A tool without a memory. Images are labelled with its name.
pub(super) trait PureTool: Tool + Clone + 'static {
    /// Does what a call asks.
    ///
    /// # Errors
    /// What the model is told where it cannot be done, whole.
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String>;

    /// So many sessions.
    fn sessions(&self, count: usize) -> Vec<Box<dyn ToolSession>> {
        (0..count).map(|_| Box::new(PureSession(self.clone())) as Box<dyn ToolSession>).collect()
    }
}

struct PureSession<T>(T);

impl<T: PureTool> ToolSession for PureSession<T> {
    fn run(&mut self, request: &str, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        let begin = Instant::now();
        let arguments =
            serde_json::from_str(request).map_err(|error| format!("Error: the arguments are no JSON: {error}"));
        let made = arguments.and_then(|arguments| self.0.call(&arguments, images));
        let output = match made {
            Ok(Made { text, images }) => {
                let image = |(number, pixels)| {
                    let name = format!("image-{}.png", number + 1);
                    ToolImage { name, label: self.0.name().to_owned(), pixels, widened: None }
                };
                let images = images.into_iter().enumerate().map(image).collect();
                ToolOutput { images, ..ToolOutput::text(CallStatus::Ok, text) }
            }
            Err(why) => ToolOutput::text(CallStatus::Error, why),
        };
        Ok(ToolOutput { seconds: begin.elapsed().as_secs_f64(), ..output })
    }

    fn replay(&mut self, _: &str, _: &TrajectoryImages) -> Result<(), ToolFault> {
        Ok(())
    }
}

/// The newest image.
///
/// # Errors
/// When there is none, or its pixels cannot be had.
pub(super) fn newest(images: &TrajectoryImages) -> Result<Arc<RgbImage>, String> {
    let last = images.len().checked_sub(1).ok_or_else(|| "there is no image to work on".to_owned())?;
    images.get(last).map_err(|missing| missing.to_string())
}

/// The whole number that an argument holds; 2.0 is one.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15);
    value.as_i64().or_else(|| float().map(|float| float as i64))
}

/// A crop at the size that qwen-vl-utils' `smart_resize` gives it ([`boxes::shown_size`]), with Pillow's `BICUBIC`. `sides` is the width and
/// height that the crop counts with, which may be fractions.
///
/// # Errors
/// When that size is above `max_pixels`, which happens to narrow crops only, or too large a picture.
pub(super) fn fitted(
    crop: &Arc<RgbImage>,
    sides: (f64, f64),
    factor: f64,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<Arc<RgbImage>, String> {
    let (width, height) = boxes::shown_size(sides, factor, min_pixels, max_pixels);
    if width * height > max_pixels as f64 {
        return Err(format!(
            "the crop is too narrow: it would be shown with {width}x{height} pixels, and {max_pixels} in all are allowed"
        ));
    }
    image_ops::resize(crop, width as u32, height as u32, Filter::Bicubic).map_err(|error| error.to_string())
}

/// Checks the limits of an image's pixels.
///
/// # Errors
/// When `max_pixels` does not hold one cell of `factor` a side, is above [`PIXELS_MAX`], or below `min_pixels`.
pub(super) fn check_limits(factor: f64, min_pixels: u64, max_pixels: u64) -> Result<(), String> {
    let cell = (factor * factor) as u64;
    if !(cell..=PIXELS_MAX).contains(&max_pixels) {
        return Err(format!("max_pixels is {max_pixels}: give a whole number from {cell} to {PIXELS_MAX}"));
    }
    if min_pixels > max_pixels {
        return Err(format!("min_pixels is {min_pixels}: give a whole number of at most max_pixels, {max_pixels}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::rollout::tool::Subject;

    /// Counts its calls.
    #[derive(Clone)]
    struct Counting(Arc<AtomicUsize>);

    impl Tool for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
            Ok(self.sessions(sessions))
        }
    }

    impl PureTool for Counting {
        fn call(&self, _: &Value, _: &TrajectoryImages) -> Result<Made, String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Made { text: String::new(), images: Vec::new() })
        }
    }

    #[test]
    fn a_tool_without_a_memory_replays_nothing() {
        let counting = Counting(Arc::default());
        let session = &mut counting.sessions(1)[0];
        session.run("{}", &TrajectoryImages::default()).unwrap();
        session.replay("{}", &TrajectoryImages::default()).unwrap();
        assert_eq!(counting.0.load(Ordering::SeqCst), 1);
    }
}
