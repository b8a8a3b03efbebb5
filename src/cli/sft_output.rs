//! Trajectories written as data for supervised fine-tuning: `batch --sft-output`, `eval --write-demonstrations`.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::jsonl::JsonlWriter;
use crate::files::lines::{JsonLines, LineBounds};
use crate::files::open::{is_there, open_regular_to_write, replace};
use crate::prompt::{ImageSettings, ImageSource};
use crate::rollout::trajectory::{End, Trajectory};
use crate::sandbox::png;
use crate::train::demonstration::Demonstration;

/// A file of demonstrations, and the folder `images` beside it.
pub struct SftOutput {
    path: PathBuf,
    rows: JsonlWriter,
    /// Where relative paths of the requests' pictures start.
    folder: PathBuf,
    /// Trajectories that became none.
    left_out: usize,
}

/// The key by which a row is found again: the reply's place among all.
const PLACE: &str = "reply";

impl SftOutput {
    /// Begins the file, or goes on in it behind the rows of the first `done` replies. `input` is the file of requests or tasks; relative paths of pictures
    /// start at `folder`.
    pub fn open(path: &Path, input: &Path, folder: &Path, done: usize) -> anyhow::Result<SftOutput> {
        let rows = match done > 0 && is_there(path) {
            true => behind(path, done)?,
            false => JsonlWriter::create(path, input)?,
        };
        Ok(SftOutput { path: path.to_owned(), rows, folder: folder.to_owned(), left_out: 0 })
    }

    /// Writes the demonstration that the trajectory of a reply is to a model with these settings, if the model ended it itself; whether it did.
    pub fn write(&mut self, place: usize, trajectory: &Trajectory, settings: &ImageSettings) -> anyhow::Result<bool> {
        let has_ended = matches!(trajectory.end, End::Answered | End::EndOfTurn);
        let Some(demonstration) = Demonstration::of(trajectory, settings).filter(|_| has_ended) else {
            self.left_out += 1;
            return Ok(false);
        };
        let images: Vec<String> = demonstration
            .images
            .iter()
            .enumerate()
            .map(|(number, image)| self.picture(place, number, image))
            .collect::<anyhow::Result<_>>()?;
        let mut row = json!({PLACE: place, "messages": demonstration.messages, "images": images});
        if let Some(tools) = demonstration.tools {
            row["tools"] = tools;
        }
        self.rows.write(&row)?;
        Ok(true)
    }

    /// Where a picture stands: a file of the requests where it is, any other in `images`.
    fn picture(&self, place: usize, number: usize, image: &ImageSource) -> anyhow::Result<String> {
        if let ImageSource::Path(path) = image {
            let path = std::path::absolute(self.folder.join(path)).context("there is no current folder")?;
            return path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{path:?} is not UTF-8"));
        }
        let pixels = image.load(&self.folder)?;
        let name = format!("images/{place:08}_{number:02}.png");
        let path = self.path.with_file_name(&name);
        let cannot = || format!("cannot write {}; write the demonstrations elsewhere", path.display());
        std::fs::create_dir_all(path.with_file_name("")).with_context(cannot)?;
        replace(&path, &png(&pixels).with_context(cannot)?).with_context(cannot)?;
        Ok(name)
    }

    /// Says how many trajectories became no row.
    pub fn finish(self) {
        if self.left_out > 0 {
            eprintln!(
                "{} trajectories are not in {}: a limit or a fault ended them, or `<image>` stands in their text",
                self.left_out,
                self.path.display()
            );
        }
    }
}

/// The file behind the rows of the first `done` replies; later ones are cut off.
fn behind(path: &Path, done: usize) -> anyhow::Result<JsonlWriter> {
    let cannot = || format!("cannot open {}; give a file in a folder that exists", path.display());
    let file = open_regular_to_write(path).with_context(cannot)?;
    let mut lines = JsonLines::of_reader(path, BufReader::new(&file), LineBounds::OWN_OUTPUT);
    let mut end = 0;
    while let Some(line) = lines.next_line()?.filter(|line| line.is_whole) {
        let row: Value = serde_json::from_slice(line.json).unwrap_or_default();
        let place = row[PLACE].as_u64().with_context(|| {
            format!("line {} of {} is no row of `batch --sft-output`; choose another", line.number, path.display())
        })?;
        if place >= done as u64 {
            break;
        }
        end = line.start + line.bytes as u64;
    }
    JsonlWriter::cut(path, file, end).with_context(cannot)
}
