//! The images of a trajectory by index, in original pixels: what tools work on and rewards look at.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use image::RgbImage;
use thiserror::Error;

use crate::prompt::ImageSource;

/// The images of a trajectory, by index from 0: first the task's, then those that tools made and the model was shown, in order.
#[derive(Clone, Debug, Default)]
pub struct TrajectoryImages {
    /// Shared by the group.
    task: Arc<TaskImages>,
    /// `None` where a limit of the trajectory's pixels left the image out.
    made: Vec<Option<Arc<RgbImage>>>,
    /// Width and height at which the model saw each image; empty where the prompt shows others than the task's.
    seen: Vec<(u32, u32)>,
}

#[derive(Debug, Default)]
struct TaskImages {
    sources: Vec<ImageSource>,
    /// Where relative paths start.
    folder: PathBuf,
    /// Each picture, or why it cannot be read, once somebody has asked for it.
    decoded: Vec<OnceLock<Result<Arc<RgbImage>, String>>>,
}

/// An image that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MissingImage {
    /// The index is too large.
    #[error("there is no image {index}: the trajectory has {count}, counted from 0")]
    Index {
        /// The index asked for.
        index: usize,
        /// Images so far.
        count: usize,
    },
    /// Its pixels were not kept.
    #[error("the pixels of image {0} were not kept: the trajectory's images are too large together")]
    NotKept(usize),
    /// The task's picture cannot be decoded.
    #[error("image {index} cannot be read: {reason}")]
    Unreadable {
        /// The index asked for.
        index: usize,
        /// Why.
        reason: String,
    },
}

impl TrajectoryImages {
    /// The pictures of a task, whose relative paths start at `folder`. None is decoded before it is asked for.
    pub fn of_task(sources: Vec<ImageSource>, folder: PathBuf) -> Self {
        let decoded = sources.iter().map(|_| OnceLock::new()).collect();
        Self { task: Arc::new(TaskImages { sources, folder, decoded }), made: Vec::new(), seen: Vec::new() }
    }

    /// With the width and height in pixels at which the prompt shows its images; they are taken if they are as many as the task's.
    pub fn seen_at(mut self, sizes: Vec<(u32, u32)>) -> Self {
        if sizes.len() == self.task.sources.len() {
            self.seen = sizes;
        }
        self
    }

    /// Those of the task and, of those that tools made, the first `made`.
    pub fn with_made(&self, made: usize) -> Self {
        let mut first = self.clone();
        first.made.truncate(made);
        first.seen.truncate(first.len());
        first
    }

    /// Images so far.
    pub fn len(&self) -> usize {
        self.task.sources.len() + self.made.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them, from index 0 on, are the task's.
    pub fn task_images(&self) -> usize {
        self.task.sources.len()
    }

    /// The pixels of the image at `index`.
    ///
    /// # Errors
    /// When there is none, it was not kept, or the task's file cannot be decoded.
    pub fn get(&self, index: usize) -> Result<Arc<RgbImage>, MissingImage> {
        let task = &*self.task;
        if let Some(source) = task.sources.get(index) {
            let load = || source.load(&task.folder).map_err(|error| error.to_string());
            let decoded = task.decoded[index].get_or_init(load).clone();
            return decoded.map_err(|reason| MissingImage::Unreadable { index, reason });
        }
        match self.made.get(index - task.sources.len()) {
            Some(Some(pixels)) => Ok(pixels.clone()),
            Some(None) => Err(MissingImage::NotKept(index)),
            None => Err(MissingImage::Index { index, count: self.len() }),
        }
    }

    /// Width and height in pixels at which the model saw the image at `index`; `None` where that is not known.
    pub fn seen_size(&self, index: usize) -> Option<(u32, u32)> {
        self.seen.get(index).copied()
    }

    /// Adds an image that a tool made: its pixels where they are kept, and the size at which the model saw it.
    pub fn push(&mut self, pixels: Option<Arc<RgbImage>>, seen: Option<(u32, u32)>) {
        if self.seen.len() == self.len() {
            self.seen.extend(seen);
        }
        self.made.push(pixels);
    }
}
