//! OpenAI's batch files: a call of a route a line, each with an id of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::jsonl::JsonlWriter;
use super::ordered_writer::OrderedWriter;
use super::sampling::SamplingArguments;
use crate::files::json::{in_json_words, read_json};
use crate::files::json_line;
use crate::files::lines::{self, JsonLines};
use crate::files::open::open_regular;
use crate::serve::ServerConfig;
use crate::serve::error::ApiError;
use crate::serve::http::batch::{Call, Reply, answer_calls};

/// The routes that a call may name: those of OpenAI's batch files that this server has.
const ROUTES: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];
/// Calls under way for each sequence that is decoded: some are made ready meanwhile.
const IN_FLIGHT: usize = 2;

/// A file of calls. Only where they stand is kept: each is read when it is about to be answered.
pub struct OpenAiBatch {
    path: PathBuf,
    file: File,
    list: Vec<Place>,
    /// Fields for bodies that lack them.
    fields: Map<String, Value>,
    /// Seed of the first call; the others count on from it, so that equal calls sample differently.
    seed: u64,
}

/// Where a call stands.
struct Place {
    custom_id: String,
    start: u64,
    bytes: usize,
}

#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Line<'a> {
    custom_id: String,
    method: Option<String>,
    url: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Whether a file holds calls: its first line has a `custom_id`.
///
/// # Errors
/// When it cannot be read, or holds something else than JSON lines.
pub fn is_openai_batch(path: &Path) -> anyhow::Result<bool> {
    let Some(line) = JsonLines::open(path)?.next_line()?.map(|line| line.json.to_vec()) else { return Ok(false) };
    let fields: Option<Map<String, Value>> = serde_json::from_slice(&line).ok();
    Ok(fields.is_some_and(|fields| fields.contains_key("custom_id")))
}

impl OpenAiBatch {
    /// Finds the calls of a file, and checks each line's form; bodies are checked by the routes. Flags stand for fields that a body lacks.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn read(path: &Path, n: u16, sampling: &SamplingArguments) -> anyhow::Result<OpenAiBatch> {
        let mut fields = sampling.fields();
        if n > 1 {
            fields.insert("n".to_owned(), n.into());
        }
        let file = open_regular(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (mut list, mut ids) = (Vec::new(), BTreeSet::new());
        let mut lines = JsonLines::open(path)?;
        while let Some(lines::Line { number, start, bytes, json, .. }) = lines.next_line()? {
            let line = read_line(json).with_context(|| format!("{}:{number}", path.display()))?;
            anyhow::ensure!(
                ids.insert(line.custom_id.clone()),
                "{}:{number}: the custom_id {:?} was there before; give each line its own",
                path.display(),
                line.custom_id
            );
            list.push(Place { custom_id: line.custom_id, start, bytes });
        }
        Ok(OpenAiBatch { path: path.to_owned(), file, list, fields, seed: sampling.seed })
    }

    /// How many calls there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The ids of the calls, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|place| place.custom_id.as_str())
    }

    /// Where relative paths start.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Answers the calls from number `first` on, for so many sequences at a time.
    ///
    /// # Errors
    /// When the engine failed or the output cannot be written. A call that is refused is no error: its line says why.
    pub fn answer(
        self,
        config: ServerConfig,
        first: usize,
        sequences: usize,
        mut writer: OrderedWriter<ReplyLine>,
        output: &mut JsonlWriter,
    ) -> anyhow::Result<()> {
        let ids: Vec<String> = self.ids().map(str::to_owned).collect();
        let (mut failed, mut refused) = (Ok(()), 0);
        let tell = |number: usize, reply: Reply| {
            refused += usize::from(reply.status != 200);
            let tokens = reply.body["usage"]["completion_tokens"].as_u64().unwrap_or(0) as usize;
            let line = ReplyLine::new(number, &ids[number], reply);
            failed = writer.add(number, Ok(line), tokens, &mut |_, line| output.write(&line));
            failed.is_ok()
        };
        answer_calls(config, first..ids.len(), IN_FLIGHT * sequences, move |number| self.call(number), tell)?;
        failed?;
        writer.finish();
        if refused > 0 {
            eprintln!("{refused} calls were refused; the body of their response says why");
        }
        Ok(())
    }

    fn call(&self, number: usize) -> Result<Call, ApiError> {
        let place = &self.list[number];
        let mut text = vec![0; place.bytes];
        self.file.read_exact_at(&mut text, place.start).map_err(ApiError::failed)?;
        let line = read_line(&text).map_err(ApiError::failed)?;
        if !ROUTES.contains(&line.url.as_str()) {
            let message = format!("there is no {:?} in a batch; it calls {}", line.url, ROUTES.join(" and "));
            return Err(ApiError::unknown_route(message));
        }
        let mut body: Map<String, Value> = serde_json::from_str(line.body.get())
            .map_err(|error| ApiError::bad(format!("the body {}", in_json_words(&error))))?;
        for (key, value) in &self.fields {
            body.entry(key).or_insert_with(|| value.clone());
        }
        let seed = self.seed.wrapping_add(number as u64) as i64;
        // -1 would stand for a random one.
        body.entry("seed").or_insert_with(|| if seed == -1 { i64::MIN } else { seed }.into());
        body.insert("stream".to_owned(), Value::Bool(false));
        Ok(Call { url: line.url, body: Value::Object(body) })
    }
}

fn read_line(text: &[u8]) -> anyhow::Result<Line<'_>> {
    let form = "a line is {\"custom_id\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {...}}";
    let line: Line<'_> = read_json(json_line(text)).map_err(|said| anyhow::anyhow!("{said}; {form}"))?;
    let method = line.method.as_deref().unwrap_or("POST");
    anyhow::ensure!(method == "POST", "method is {method:?}, and only POST is known; {form}");
    anyhow::ensure!(line.url.starts_with('/'), "url is {:?}; give a route such as /v1/chat/completions", line.url);
    Ok(line)
}

/// A line of OpenAI's output file.
#[derive(Serialize)]
pub struct ReplyLine {
    id: String,
    custom_id: String,
    response: Response,
    error: Option<Value>,
}

#[derive(Serialize)]
struct Response {
    status_code: u16,
    request_id: String,
    body: Value,
}

impl ReplyLine {
    fn new(number: usize, custom_id: &str, reply: Reply) -> ReplyLine {
        let request_id = reply.body["id"].as_str().map_or_else(|| format!("request-{number}"), str::to_owned);
        ReplyLine {
            id: format!("batch_req_{number}"),
            custom_id: custom_id.to_owned(),
            response: Response { status_code: reply.status, request_id, body: reply.body },
            error: None,
        }
    }
}
