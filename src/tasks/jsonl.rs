//! Thyme's two JSONL forms: tasks of reinforcement learning (`messages`, `images`, `solution`, `question`) and demonstrations
//! (`image`, `question`, `response`). Reading gives paths, not pixels: decoding pictures is the reader's affair.

use std::io::{self, BufWriter, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{ImageFormat, RgbImage};
use serde_json::{Map, Value, json};

use super::forms::{Foreign, foreign_data, has_content, unused_key, unused_mark};
use super::needle::{self, Kind, Mixture, Split, Variant};
use super::{Example, Message, Role, Solution};
use crate::files::json::{in_json_words, in_words_of_line};
use crate::files::lines::{JsonLines, Line, LinesError, MESSAGES_MAX, PICTURES_MAX};
use crate::files::open::{Replacement, replace};
use crate::files::{is_elsewhere, local_path, object_remedy};

/// Why a data file could not be read or written; each names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be opened, read or written.
    #[error("cannot {action} {path}: {source}; check that it exists, that you may, and that the disk has room")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder that it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that cannot be read as JSON lines.
    #[error(transparent)]
    Lines(#[from] LinesError),
    /// A line is not a JSON object.
    #[error("{path}:{line}: not a JSON object ({problem}); {remedy}")]
    Json {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the JSON parser says.
        problem: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A line has the form of another system.
    #[error("{path}:{line}: the row has the form of {}; {}", form.name, form.remedy)]
    Form {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Whose form it is, and the remedy.
        form: Foreign,
    },
    /// A key is missing or has a wrong value.
    #[error("{path}:{line}: key `{key}`: {problem}; {remedy}")]
    Key {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as the file spells it.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A file has no line.
    #[error(
        "{path}: no sample in it; write one JSON object per line, or draw some with `thyme-engine data needle --out DIR`"
    )]
    Empty {
        /// The data file without lines.
        path: PathBuf,
    },
    /// A picture cannot be encoded as PNG, or its file cannot be written.
    #[error("cannot write the picture {path}: {problem}; check that the disk has room")]
    Picture {
        /// The file that the picture was to go to.
        path: PathBuf,
        /// What the encoder or the system says.
        problem: String,
    },
}

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
    let mut lines = JsonLines::open(path)?;
    let (file, folder): (Arc<Path>, _) = (path.into(), path.parent().unwrap_or(Path::new("")));
    let mut rows = Vec::new();
    while let Some(Line { number, json, .. }) = lines.next_line()? {
        rows.push(Place { file: &file, line: number, folder }.record(json));
    }
    if rows.is_empty() { Err(DataError::Empty { path: path.into() }) } else { Ok(rows) }
}

/// Where in a file a line stands.
struct Place<'a> {
    file: &'a Arc<Path>,
    line: usize,
    folder: &'a Path,
}

impl Place<'_> {
    fn wrong(&self, key: &'static str, problem: impl Into<String>, remedy: &'static str) -> DataError {
        DataError::Key { path: self.file.to_path_buf(), line: self.line, key, problem: problem.into(), remedy }
    }

    fn record(&self, text: &[u8]) -> Result<Record, DataError> {
        let object: Map<String, Value> = serde_json::from_slice(text).map_err(|error| DataError::Json {
            path: self.file.to_path_buf(),
            line: self.line,
            problem: in_words_of_line(&error),
            remedy: object_remedy(text),
        })?;
        self.refuse_sizes(&object)?;
        let record = if object.contains_key("messages") { self.task(&object) } else { self.demonstration(&object) };
        let record = record.map_err(|error| match foreign_data(&object) {
            Some(form) => DataError::Form { path: self.file.to_path_buf(), line: self.line, form },
            None => error,
        })?;
        match unused_key(&object).or_else(|| unused_mark(&object)) {
            Some((key, remedy)) => Err(self.wrong(key, "it would be left unread", remedy)),
            None => Ok(record),
        }
    }

    /// Refuses keys of picture sizes: the recipe sets the size for all lines alike.
    fn refuse_sizes(&self, object: &Map<String, Value>) -> Result<(), DataError> {
        let keys = ["min_pixels", "max_pixels", "resized_height", "resized_width", "mm_processor_kwargs"];
        match keys.into_iter().find(|key| object.get(*key).is_some_and(|value| !value.is_null())) {
            Some(key) => {
                let remedy = "set `model.min_pixels` and `model.max_pixels` in the recipe, and leave it out here";
                Err(self.wrong(key, "it has no effect in a line", remedy))
            }
            None => Ok(()),
        }
    }

    fn task(&self, object: &Map<String, Value>) -> Result<Record, DataError> {
        let remedy = "it should be a list of {\"role\": \"system|user|assistant|tool\", \"content\": \"text\"}";
        let messages: Vec<Message> = serde_json::from_value(object["messages"].clone())
            .map_err(|error| self.wrong("messages", format!("it {}", in_json_words(&error)), remedy))?;
        if messages.is_empty() {
            return Err(self.wrong("messages", "the list is empty", remedy));
        }
        if messages.len() > MESSAGES_MAX {
            let problem = format!("there are {} messages, and at most {MESSAGES_MAX} are taken", messages.len());
            return Err(self.wrong("messages", problem, "shorten the conversation"));
        }
        if object.get("system").is_some_and(has_content) {
            let remedy = "beside `messages` the system message is the first of them";
            return Err(self.wrong("system", "it would be left unread", remedy));
        }
        let images = self.paths(object, "images", "image")?;
        self.check_placeholders("messages", &messages, images.len())?;
        let solution = match object.get("solution") {
            None | Some(Value::Null) => None,
            Some(value) => {
                Some(Solution::read(value).map_err(|problem| self.wrong("solution", problem, "mend the line"))?)
            }
        };
        let question = self.text(object, "question")?;
        let columns = columns(object);
        let tools = self.tools(object, &messages)?;
        Ok(Record { messages, images, solution, question, columns, tools, file: self.file.clone(), line: self.line })
    }

    fn demonstration(&self, object: &Map<String, Value>) -> Result<Record, DataError> {
        let required = |key: &'static str| {
            let remedy = "a line needs `messages`, `images`, `solution`, `question` (a task) or `image`, `question`, `response` (a \
                          demonstration)";
            let is_strange = !object.contains_key("question") && !object.contains_key("response");
            let keys = || object.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let problem = || {
                if is_strange { format!("it is missing; the row has {}", keys()) } else { "it is missing".to_owned() }
            };
            self.text(object, key)?.ok_or_else(|| self.wrong(key, problem(), remedy))
        };
        let (question, response) = (required("question")?, required("response")?);
        let system = self.text(object, "system")?;
        let messages: Vec<Message> = system
            .map(|text| Message::new(Role::System, text))
            .into_iter()
            .chain([Message::new(Role::User, question.clone()), Message::new(Role::Assistant, response)])
            .collect();
        let images = self.paths(object, "image", "images")?;
        self.check_placeholders("image", &messages, images.len())?;
        let question = question.split("<image>").collect::<String>().trim().to_owned();
        let (solution, question, columns, tools) =
            (None, Some(question), columns(object), self.tools(object, &messages)?);
        Ok(Record { messages, images, solution, question, columns, tools, file: self.file.clone(), line: self.line })
    }

    /// The tools that a demonstration's model knows of; those of a task are the environment's.
    fn tools(&self, object: &Map<String, Value>, messages: &[Message]) -> Result<Option<Value>, DataError> {
        let remedy = "it should be a list of functions in OpenAI's form; a task has none, for its environment describes the tools";
        match object.get("tools").filter(|tools| has_content(tools)) {
            None => Ok(None),
            Some(Value::Array(_)) if messages.last().is_none_or(|message| message.role != Role::Assistant) => {
                Err(self.wrong("tools", "it would be left unread", remedy))
            }
            Some(tools @ Value::Array(_)) => Ok(Some(tools.clone())),
            Some(other) => Err(self.wrong("tools", format!("found {}", kind_of(other)), remedy)),
        }
    }

    /// The text under an optional key.
    fn text(&self, object: &Map<String, Value>, key: &'static str) -> Result<Option<String>, DataError> {
        match object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, format!("found {}", kind_of(other)), "it should be a string")),
        }
    }

    /// The paths under an optional key: a list of strings, or one string. `other` is what the other form calls it.
    fn paths(
        &self,
        object: &Map<String, Value>,
        key: &'static str,
        other: &'static str,
    ) -> Result<Vec<PathBuf>, DataError> {
        let is_given = |key| object.get(key).is_some_and(has_content);
        if is_given(other) && !is_given(key) {
            let remedy = "a row of `messages` has `images`, one of `question` and `response` has `image`";
            return Err(self.wrong(other, format!("this row's form calls it `{key}`"), remedy));
        }
        let remedy = "it should be a list of paths, absolute or relative to the data file's folder; save embedded pictures as files";
        let path = |value: &Value| match value {
            Value::String(text) if text.starts_with("data:") || text.len() > 4096 => {
                Err(self.wrong(key, "found an embedded picture", remedy))
            }
            Value::String(text) if text.is_empty() => Err(self.wrong(key, "found an empty path", remedy)),
            Value::String(text) if is_elsewhere(text) => Err(self.wrong(
                key,
                format!("{text:?} is on the network and is not fetched"),
                "download it and give its path",
            )),
            Value::String(text) => Ok(self.folder.join(local_path(text))),
            Value::Object(object) if object.get("bytes").is_some_and(|bytes| !bytes.is_null()) => {
                Err(self.wrong(key, "found an embedded picture, as Hugging Face's datasets write them", remedy))
            }
            other => Err(self.wrong(key, format!("found {}", kind_of(other)), remedy)),
        };
        match object.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() > PICTURES_MAX => {
                let problem = format!("there are {} pictures, and at most {PICTURES_MAX} are taken", values.len());
                Err(self.wrong(key, problem, "give fewer in a line"))
            }
            Some(Value::Array(values)) => values.iter().map(path).collect(),
            Some(value) => Ok(vec![path(value)?]),
        }
    }

    fn check_placeholders(&self, key: &'static str, messages: &[Message], images: usize) -> Result<(), DataError> {
        let placeholders: usize = messages.iter().map(|message| message.text.matches("<image>").count()).sum();
        if placeholders == images {
            return Ok(());
        }
        let problem = format!("the text has {placeholders} `<image>` placeholders for {images} pictures");
        Err(self.wrong(key, problem, "give each picture one placeholder, in order"))
    }
}

/// The keys of a line that no form has, with their values.
fn columns(object: &Map<String, Value>) -> Map<String, Value> {
    let keys = ["messages", "images", "image", "solution", "question", "response", "system"];
    let others = object.iter().filter(|(key, _)| !keys.contains(&key.as_str()));
    others.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

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
