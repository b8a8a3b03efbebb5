//! Which of a tool's images an observation shows.

use std::sync::Arc;

use super::tool::ToolOutput;
use crate::prompt::{PreparedImage, Processor};

/// The images that one sequence was shown, of which there may be only so many.
#[derive(Clone, Copy, Debug)]
pub struct ShownImages {
    count: usize,
    most: usize,
}

impl ShownImages {
    /// None yet, of `most`.
    pub fn new(most: usize) -> Self {
        Self { count: 0, most }
    }

    /// The images of an output that are shown, which stay in it. What is not shown is said in lines behind `text`.
    pub fn take(
        &mut self,
        processor: &Processor,
        output: &mut ToolOutput,
        text: &mut String,
    ) -> Vec<Arc<PreparedImage>> {
        let mut shown = Vec::new();
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
            match processor.prepare(&image.pixels) {
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
