//! Request lines of `score` and `batch`: an id and one of `messages`, `prompt`, `token_ids`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::files::json::{in_words_of_line, read_json};
use crate::files::lines::{JsonLines, Line, LinesError, MESSAGES_MAX, PICTURES_MAX};
use crate::files::object_remedy;
use crate::files::open::open_regular;
use crate::prompt::{
    ImageError, ImageProblem, ImageSource, Message, PixelLimits, PositionError, PromptError, SizeError,
};
use crate::serve::request::fields::optional_wholes;
use crate::tasks::forms::{Foreign, foreign_request};

/// A request file that cannot be used.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The file cannot be read as JSON lines.
    #[error(transparent)]
    Lines(#[from] LinesError),
    /// A line that is no request.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The request file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and the remedy.
        problem: Problem,
    },
    /// A request that cannot be answered.
    #[error("{}:{line}: request {id}: {problem}", path.display())]
    Request {
        /// The request file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The request's `id`, as given.
        id: Value,
        /// What is wrong with it, and the remedy.
        problem: Box<Problem>,
    },
}

/// What can be wrong with a request.
#[derive(Debug, Error)]
pub enum Problem {
    /// Not of the form.
    #[error("{0}; a line is one JSON object with `id` and one of `messages`, `prompt`, `token_ids`")]
    Json(String),
    /// Not a JSON object.
    #[error("{0}; {1}; a line is one JSON object with `id` and one of `messages`, `prompt`, `token_ids`")]
    NoObject(String, &'static str),
    /// A row of another system or of another kind of file.
    #[error("the line has the form of {}; {}", .0.name, .0.remedy)]
    Form(Foreign),
    /// The id is no id.
    #[error("`id` is {0}; give a string or a number")]
    Id(Value),
    /// None of the three forms, or several.
    #[error("the line has {0} of `messages`, `prompt`, `token_ids`; give exactly one")]
    Forms(usize),
    /// Images beside messages.
    #[error(
        "`images` goes with `prompt` and `token_ids`; in `messages` an image is a content part {{\"type\": \"image\", \"image\": path}}"
    )]
    ImagesBesideMessages,
    /// The messages, the tokenizer or a picture.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A picture cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A picture of an unusable size.
    #[error("image {0}: {1}")]
    Picture(usize, ImageProblem),
    /// Limits of pixels that cannot be used.
    #[error("mm_processor_kwargs: {0}")]
    Size(#[from] SizeError),
    /// Placeholders and pictures do not fit.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// It cannot be opened: what the rollout says.
    #[error("{0}")]
    Unopened(String),
    /// More than any model takes.
    #[error("the line has {found} {things}, and at most {most} are taken; give fewer")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
        /// `pictures` or `messages`.
        things: &'static str,
    },
    /// The prompt has no tokens.
    #[error("there are no tokens; give at least one")]
    Empty,
    /// A token that the model does not have.
    #[error("token {index} has the id {id}, but the model's ids end at {}; use this checkpoint's tokenizer", vocab - 1)]
    TokenId {
        /// Its place, from 0.
        index: usize,
        /// The id that is too large.
        id: u32,
        /// How many ids there are.
        vocab: usize,
    },
    /// More tokens than the model was made for.
    #[error("{tokens} tokens are more than the model's context of {context} allows{}; shorten the text or lower the image sizes", room(*.reserved))]
    TooLong {
        /// Tokens of the request.
        tokens: usize,
        /// Positions of the model.
        context: usize,
        /// Positions to be left over.
        reserved: usize,
    },
}

fn room(reserved: usize) -> &'static str {
    if reserved > 0 { " with room for an answer" } else { "" }
}

/// One line of a request file.
#[derive(Debug)]
pub struct Request {
    /// Its line in the file, from 1.
    pub line: usize,
    /// As given; the reply repeats it.
    pub id: Value,
    /// What to score or go on from.
    pub form: Form,
    /// The pictures of `prompt` and `token_ids`.
    pub images: Vec<ImageSource>,
    /// How its pictures are resized (`mm_processor_kwargs`).
    pub limits: PixelLimits,
}

/// The three ways to say a prompt.
#[derive(Debug)]
pub enum Form {
    /// A conversation, which the chat template turns into text.
    Messages(Vec<Message>),
    /// Raw text in which each `<|image_pad|>` stands for one image.
    Prompt(String),
    /// Token ids, images expanded.
    TokenIds(Vec<u32>),
}

impl Request {
    /// All its pictures in order.
    pub fn sources(&self) -> Vec<ImageSource> {
        match &self.form {
            Form::Messages(messages) => messages.iter().flat_map(Message::images).cloned().collect(),
            Form::Prompt(_) | Form::TokenIds(_) => self.images.clone(),
        }
    }
}

/// All requests of a file.
#[derive(Debug)]
pub struct Requests {
    /// The file that they were read from.
    pub path: PathBuf,
    /// In the order of their lines.
    pub list: Vec<Request>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Raw {
    id: Value,
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    #[serde(default, deserialize_with = "optional_wholes")]
    token_ids: Option<Vec<u32>>,
    images: Option<Vec<ImageSource>>,
    mm_processor_kwargs: Option<PixelLimits>,
}

impl Requests {
    /// Reads every line; blank ones are skipped. Pictures are looked for, but not read yet.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn read(path: &Path) -> Result<Requests, RequestError> {
        let mut lines = JsonLines::open(path)?;
        let mut requests = Requests { path: path.to_owned(), list: Vec::new() };
        while let Some(Line { number, json, .. }) = lines.next_line()? {
            let line_error = |problem| RequestError::Line { path: path.to_owned(), line: number, problem };
            let request = parse(json, number).map_err(line_error)?;
            requests.find_images(&request).map_err(|error| requests.error(&request, error.into()))?;
            requests.list.push(request);
        }
        Ok(requests)
    }

    /// Where relative paths start.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// What is wrong with a request.
    pub fn error(&self, request: &Request, problem: Problem) -> RequestError {
        let (path, id, problem) = (self.path.clone(), request.id.clone(), Box::new(problem));
        RequestError::Request { path, line: request.line, id, problem }
    }

    /// Whether the files are there: better said now than after an hour of other lines.
    fn find_images(&self, request: &Request) -> Result<(), ImageError> {
        for source in request.sources() {
            let ImageSource::Path(path) = source.original() else { continue };
            let path = self.folder().join(path);
            let Err(error) = open_regular(&path) else { continue };
            let reason = format!("{error}; relative paths start at the folder of the input file");
            return Err(ImageError::unreadable(&path.display().to_string(), &reason));
        }
        Ok(())
    }
}

fn parse(line: &[u8], number: usize) -> Result<Request, Problem> {
    let raw: Raw = match read_json(line) {
        Ok(raw) => raw,
        Err(said) => {
            let row: Map<String, Value> = serde_json::from_slice(line)
                .map_err(|error| Problem::NoObject(in_words_of_line(&error), object_remedy(line)))?;
            return Err(foreign_request(&row).map_or(Problem::Json(said), Problem::Form));
        }
    };
    if !raw.id.is_string() && !raw.id.is_number() {
        return Err(Problem::Id(raw.id));
    }
    let (images, has_images) = (raw.images.clone().unwrap_or_default(), raw.images.is_some());
    let form = match (raw.messages, raw.prompt, raw.token_ids) {
        (Some(_), None, None) if has_images => return Err(Problem::ImagesBesideMessages),
        (Some(messages), None, None) => Form::Messages(messages),
        (None, Some(prompt), None) => Form::Prompt(prompt),
        (None, None, Some(ids)) => Form::TokenIds(ids),
        (a, b, c) => {
            return Err(Problem::Forms(usize::from(a.is_some()) + usize::from(b.is_some()) + usize::from(c.is_some())));
        }
    };
    let limits = raw.mm_processor_kwargs.unwrap_or_default();
    let request = Request { line: number, id: raw.id, form, images, limits };
    let messages = if let Form::Messages(messages) = &request.form { messages.len() } else { 0 };
    for (found, most, things) in
        [(request.sources().len(), PICTURES_MAX, "pictures"), (messages, MESSAGES_MAX, "messages")]
    {
        if found > most {
            return Err(Problem::TooMany { found, most, things });
        }
    }
    Ok(request)
}
