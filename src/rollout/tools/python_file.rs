//! A user's own tool in a Python file: `SCHEMA`, and `call(arguments, images)`. An exception is an observation of one line for the model; the
//! user is told the file and the line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::rollout::images::TrajectoryImages;
use crate::rollout::python_file::{PythonFile, PythonFileSettings, static_name};
use crate::rollout::tool::{CallStatus, Subject, Tool, ToolFault, ToolImage, ToolOutput, ToolSession};
use crate::sandbox::{Arguments, CallError, FileKind, Returned, Worker};

/// Characters of an error that the model is told.
const ERROR_CHARACTERS: usize = 300;

/// The tool, shared by all sequences.
pub struct PythonFileTool {
    shared: Arc<Shared>,
    /// Calls that may run at a time.
    workers: usize,
}

struct Shared {
    name: &'static str,
    file: PythonFile,
    said: Said,
}

/// What the file says of itself.
#[derive(Deserialize)]
struct Said {
    /// As under `function` in OpenAI's API.
    schema: Value,
    /// Whether it is a class, which remembers between the calls of a sequence.
    has_state: bool,
}

impl PythonFileTool {
    /// Refuses keys of a tool in a file that cannot be; starts nothing.
    ///
    /// # Errors
    /// When a value cannot be, or a file is not there.
    pub fn check(name: &str, settings: &PythonFileSettings) -> Result<(), ToolFault> {
        settings.check().map_err(|reason| ToolFault { tool: static_name(name), reason })
    }

    /// Starts a sandbox and loads the file.
    ///
    /// # Errors
    /// When the machine offers no python or too few walls, or the file is no tool: with file and line.
    pub fn start(name: &str, settings: &PythonFileSettings) -> Result<Self, ToolFault> {
        let name = static_name(name);
        let fault = |reason| ToolFault { tool: name, reason };
        settings.check().map_err(fault)?;
        let (file, said) = PythonFile::start(settings, FileKind::Tool).map_err(fault)?;
        let mut said: Said = serde_json::from_value(said).map_err(|error| fault(error.to_string()))?;
        let claimed = said.schema.get("name").cloned().unwrap_or_else(|| name.into());
        if claimed != name {
            let path = file.path().display();
            return Err(fault(format!(
                "{path}: SCHEMA has the name {claimed}, and the recipe calls the tool {name:?}; leave it out there"
            )));
        }
        said.schema["name"] = name.into();
        Ok(Self { shared: Arc::new(Shared { name, file, said }), workers: settings.workers() })
    }
}

impl Tool for PythonFileTool {
    fn name(&self) -> &'static str {
        self.shared.name
    }

    fn schema(&self) -> Option<Value> {
        Some(json!({"type": "function", "function": self.shared.said.schema}))
    }

    fn parallel_calls(&self) -> Option<usize> {
        // Fewer wait in the pool, so that they hold up no other tool.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        (self.workers > cores).then_some(self.workers)
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.shared.file.versions(self.shared.name).into()
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        let session = |_| -> Box<dyn ToolSession> {
            let own = self.shared.said.has_state.then(|| self.shared.file.own_worker());
            Box::new(PythonFileSession { shared: Arc::clone(&self.shared), own })
        };
        Ok((0..sessions).map(session).collect())
    }
}

/// One sequence's use of the tool.
struct PythonFileSession {
    shared: Arc<Shared>,
    /// The process of its object, of a tool that is a class.
    own: Option<Worker>,
}

impl ToolSession for PythonFileSession {
    fn run(&mut self, request: &str, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        let Shared { name, file, said } = &*self.shared;
        let values = match arguments(request, &said.schema) {
            Ok(values) => values,
            Err(problem) => return Ok(ToolOutput::text(CallStatus::Error, format!("Error: {problem}"))),
        };
        let images = (0..images.len()).map(|index| images.get(index).ok()).collect();
        let arguments = Arguments { values, images, task_images: 0 };
        let started = Instant::now();
        let (returned, is_new) = match &mut self.own {
            None => (file.call(&arguments), false),
            Some(worker) => {
                let called = worker.call(&arguments).map_err(|error| error.to_string());
                let is_new = called.as_ref().is_ok_and(|called| called.is_new);
                (called.map(|called| file.noted(called)), is_new)
            }
        };
        let returned = returned.map_err(|reason| ToolFault { tool: name, reason })?;
        let mut output = output(returned);
        if is_new {
            output.text.push_str("\n(What the tool remembered of earlier calls was lost.)");
        }
        Ok(ToolOutput { seconds: started.elapsed().as_secs_f64(), ..output })
    }

    fn replay(&mut self, request: &str, images: &TrajectoryImages) -> Result<(), ToolFault> {
        // A function remembers nothing of a sequence.
        if self.own.is_none() { Ok(()) } else { self.run(request, images).map(drop) }
    }
}

/// The arguments of a call: a JSON object that has what the schema requires.
fn arguments(request: &str, schema: &Value) -> Result<Value, String> {
    let values: Value = serde_json::from_str(request).map_err(|error| format!("the arguments are no JSON: {error}"))?;
    let Value::Object(given) = &values else { return Err("the arguments are no JSON object".to_owned()) };
    let required = schema["parameters"]["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match required.into_iter().find(|name| !given.contains_key(*name)) {
        Some(name) => Err(format!("the argument {name:?} is missing")),
        None => Ok(values),
    }
}

/// What the model is told.
fn output(returned: Result<Returned, CallError>) -> ToolOutput {
    let error = match returned {
        Ok(Returned { value, images }) => {
            let image = |(index, pixels)| {
                let name = format!("image-{}.png", index + 1);
                ToolImage { label: name.clone(), name, pixels: Arc::new(pixels), widened: None }
            };
            let images = images.into_iter().enumerate().map(image).collect();
            return ToolOutput { images, ..ToolOutput::text(CallStatus::Ok, value.as_str().unwrap_or_default()) };
        }
        Err(error) => error,
    };
    let status = if matches!(error, CallError::Late { .. }) { CallStatus::Timeout } else { CallStatus::Error };
    let said = error.to_string();
    let line: String = said.lines().next().unwrap_or_default().chars().take(ERROR_CHARACTERS).collect();
    ToolOutput::text(status, format!("Error: {line}"))
}
