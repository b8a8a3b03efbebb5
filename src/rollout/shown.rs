//! Which of a tool's images an observation shows.

use std::sync::Arc;

use super::tool::ToolOutput;
use crate::prompt::{ImageSettings, PreparedImage, Processor};

/// The images that one sequence was shown, of which there may be only so many.
#[derive(Clone, Copy, Debug)]
pub struct ShownImages {
    count: usize,
    most: usize,
    max_pixels: Option<u64>,
}

impl ShownImages {
    /// None yet, of `most`.
    pub fn new(most: usize) -> Self {
        Self { count: 0, most, max_pixels: None }
    }

    /// With images of at most so many pixels, as the model sees them, where the checkpoint allows more.
    pub fn with_max_pixels(self, max_pixels: Option<u64>) -> Self {
        Self { max_pixels, ..self }
    }

    /// The images of an output that are shown, which stay in it. What is not shown is said in lines behind `text`.
    pub fn take(
        &mut self,
        processor: &Processor,
        output: &mut ToolOutput,
        text: &mut String,
    ) -> Vec<Arc<PreparedImage>> {
        let mut shown = Vec::new();
        let own = processor.image_settings();
        let max_pixels = self.max_pixels.map_or(own.max_pixels, |most| most.min(own.max_pixels).max(own.min_pixels));
        let settings = ImageSettings { max_pixels, ..own.clone() };
        let mut add_line = |line: String| {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&line);
        };
        for image in std::mem::take(&mut output.images) {
            if self.count >= self.most {
                add_line(format!("Further images are not shown: the limit of {} is reached.", self.most));
                break;
            }
            match PreparedImage::prepare(&image.pixels, &settings) {
                Ok(prepared) => {
                    self.count += 1;
                    shown.push(Arc::new(prepared));
                    output.images.push(image);
                }
                Err(problem) => add_line(format!("The image {} cannot be shown: it {problem}", image.label)),
            }
        }
        shown
    }
}
