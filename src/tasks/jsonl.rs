//! Thyme's two JSONL forms: tasks of reinforcement learning (`messages`, `images`, `solution`, `question`) and demonstrations
//! (`image`, `question`, `response`). Reading gives paths, not pixels: decoding pictures is the reader's affair.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde_json::{Map, Value};

pub use super::data_error::DataError;
use super::forms::{foreign_data, unused_key, unused_mark};
pub use super::needle_file::{NeedleFile, demonstration_line, task_line, write_needle};
use super::row::Row;
use super::{Example, Message, Role, Solution};
use crate::files::lines::{JsonLines, Line};

/// One line of a data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The conversation; a demonstration's last message is the assistant's.
    pub messages: Vec<Message>,
    /// The pictures in the order of their placeholders; relative paths have been joined to the file's folder.
    pub images: Vec<PathBuf>,
    /// The right answer, of a task.
    pub solution: Option<Solution>,
    /// The bare question.
    pub question: Option<String>,
    /// Of a demonstration: schemas of tools, which the chat template describes to the model.
    pub tools: Option<Value>,
    /// What else stands in the line, by key.
    pub columns: Map<String, Value>,
    /// Of a row of preferences: the answer that was rejected.
    pub preference: Option<Preference>,
    /// The file that it stands in.
    pub file: Arc<Path>,
    /// Its line there, from 1.
    pub line: usize,
}

impl Record {
    /// The example, once its pictures have been decoded.
    pub fn with_images(self, images: Vec<RgbImage>) -> Example {
        Example { messages: self.messages, images, solution: self.solution, question: self.question, tools: self.tools }
    }
}

/// What a row of preferences holds besides the chosen conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Messages of the prompt, which both conversations begin with.
    pub prompt_messages: usize,
    /// The whole rejected conversation.
    pub rejected: Vec<Message>,
    /// Its pictures in the order of their placeholders, paths as in [`Record::images`].
    pub rejected_images: Vec<PathBuf>,
}

/// The keys that a task or a demonstration may have.
const KEYS: [&str; 7] = ["messages", "images", "image", "solution", "question", "response", "system"];

/// Reads every line of a data file of either form; a line with `messages` is a task, one with `response` a demonstration.
///
/// # Errors
/// The first line that is not of a known form, with its number, its key and the remedy.
pub fn read(path: &Path) -> Result<Vec<Record>, DataError> {
    rows(path)?.into_iter().collect()
}

/// Every line of a data file, or what is wrong with it where it is not of a known form; blank ones are skipped.
///
/// # Errors
/// When the file cannot be read, holds no JSON lines, or none at all.
pub fn rows(path: &Path) -> Result<Vec<Result<Record, DataError>>, DataError> {
    rows_of(path, record)
}

/// Every line of a file as `record` reads it, or what is wrong with it.
pub(super) fn rows_of(
    path: &Path,
    record: impl Fn(Row<'_>) -> Result<Record, DataError>,
) -> Result<Vec<Result<Record, DataError>>, DataError> {
    let mut lines = JsonLines::open(path)?;
    let file: Arc<Path> = path.into();
    let mut rows = Vec::new();
    while let Some(Line { number, json, .. }) = lines.next_line()? {
        rows.push(Row::read(&file, number, json).and_then(&record));
    }
    if rows.is_empty() { Err(DataError::Empty { path: path.into() }) } else { Ok(rows) }
}

fn record(row: Row<'_>) -> Result<Record, DataError> {
    let record = if row.object.contains_key("messages") { task(&row) } else { demonstration(&row) };
    let record = record.map_err(|error| match foreign_data(&row.object) {
        Some(form) => DataError::Form { path: row.file.to_path_buf(), line: row.line, form },
        None => error,
    })?;
    match unused_key(&row.object).or_else(|| unused_mark(&row.object)) {
        Some((key, remedy)) => Err(row.wrong(key, "it would be left unread", remedy)),
        None => Ok(record),
    }
}

fn task(row: &Row<'_>) -> Result<Record, DataError> {
    let messages = row.messages("messages")?;
    row.refuse_system()?;
    let images = row.paths("images", "image")?;
    row.check_placeholders("messages", &messages, images.len())?;
    let solution = match row.object.get("solution") {
        None | Some(Value::Null) => None,
        Some(value) => Some(Solution::read(value).map_err(|problem| row.wrong("solution", problem, "mend the line"))?),
    };
    let (question, columns, tools) = (row.text("question")?, row.columns(&KEYS), row.tools(&messages)?);
    let (file, line) = (row.file.clone(), row.line);
    Ok(Record { messages, images, solution, question, columns, tools, preference: None, file, line })
}

fn demonstration(row: &Row<'_>) -> Result<Record, DataError> {
    let required = |key: &'static str| {
        let remedy = "a line needs `messages`, `images`, `solution`, `question` (a task) or `image`, `question`, `response` (a \
                      demonstration)";
        let is_strange = !row.object.contains_key("question") && !row.object.contains_key("response");
        let keys = || row.object.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let problem =
            || if is_strange { format!("it is missing; the row has {}", keys()) } else { "it is missing".to_owned() };
        row.text(key)?.ok_or_else(|| row.wrong(key, problem(), remedy))
    };
    let (question, response) = (required("question")?, required("response")?);
    let system = row.text("system")?;
    let messages: Vec<Message> = system
        .map(|text| Message::new(Role::System, text))
        .into_iter()
        .chain([Message::new(Role::User, question.clone()), Message::new(Role::Assistant, response)])
        .collect();
    let images = row.paths("image", "images")?;
    row.check_placeholders("image", &messages, images.len())?;
    let question = Some(question.split("<image>").collect::<String>().trim().to_owned());
    let (columns, tools) = (row.columns(&KEYS), row.tools(&messages)?);
    let (file, line) = (row.file.clone(), row.line);
    Ok(Record { messages, images, solution: None, question, columns, tools, preference: None, file, line })
}
