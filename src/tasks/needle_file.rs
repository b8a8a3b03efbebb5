//! The built-in task written as files.

use std::io::{BufWriter, Cursor, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};

use super::data_error::DataError;
use super::needle::{self, Kind, Mixture, Split, Variant};
use super::{Example, Role, Solution};
use crate::files::open::{Replacement, replace};

/// What [`write_needle`] draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NeedleFile {
    /// Tasks of reinforcement learning, plain or of a variant, in Thyme's RL form.
    Tasks(Option<Variant>),
    /// Samples of a mixture, in Thyme's SFT form; a system prompt goes to the key `system`.
    Samples(Mixture),
}

/// Draws `count` needle samples into `folder` (made if missing) as `data.jsonl` and `images/*.png`, and returns the JSONL's path.
/// Sample *i* is [`needle::example`], [`Variant::task`] or [`needle::mixed`] of (`split`, `seed`, *i*): the same pictures and text to the byte.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write_needle(
    folder: &Path,
    file: NeedleFile,
    count: u64,
    split: Split,
    seed: u64,
) -> Result<PathBuf, DataError> {
    let pictures = folder.join("images");
    std::fs::create_dir_all(&pictures).map_err(|source| DataError::Io { action: "create", path: pictures, source })?;
    let path = folder.join("data.jsonl");
    let fault = |source| DataError::Io { action: "write", path: path.clone(), source };
    let mut new = Replacement::begin(&path).map_err(fault)?;
    let mut lines = BufWriter::new(new.file());
    for index in 0..count {
        let example = match file {
            NeedleFile::Tasks(None) => needle::example(Kind::Task, split, seed, index),
            NeedleFile::Tasks(Some(variant)) => variant.task(split, seed, index),
            NeedleFile::Samples(mixture) => needle::mixed(&mixture, split, seed, index),
        };
        let mut names = Vec::new();
        for (number, picture) in example.images.iter().enumerate() {
            let name = format!("images/{index:08}_{number:02}.png");
            save(picture, &folder.join(&name))?;
            names.push(name);
        }
        let line = match file {
            NeedleFile::Tasks(_) => task_line(&example, &names),
            NeedleFile::Samples(_) => demonstration_line(&example, &names),
        };
        writeln!(lines, "{line}").map_err(fault)?;
    }
    lines.flush().map_err(fault)?;
    drop(lines);
    new.finish().map_err(fault)?;
    Ok(path)
}

fn save(picture: &RgbImage, path: &Path) -> Result<(), DataError> {
    let fault = |problem: String| DataError::Picture { path: path.into(), problem };
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).map_err(|error| fault(error.to_string()))?;
    replace(path, png.get_ref()).map_err(|error| fault(error.to_string()))
}

/// A line of Thyme's RL form.
pub fn task_line(example: &Example, images: &[String]) -> Value {
    json!({"messages": example.messages, "images": images, "solution": example.solution.as_ref().map(Solution::to_json), "question": example.question})
}

/// A line of Thyme's SFT form: the last user message is the question, the assistant's the response.
pub fn demonstration_line(example: &Example, images: &[String]) -> Value {
    let said = |role: Role| {
        example.messages.iter().rev().find(|message| message.role == role).map(|message| message.text.as_str())
    };
    let mut line = json!({"image": images, "question": said(Role::User), "response": said(Role::Assistant)});
    if let Some(system) = said(Role::System) {
        line["system"] = system.into();
    }
    line
}
