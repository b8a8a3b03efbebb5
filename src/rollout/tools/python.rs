//! Python in the sandbox as a tool: a session is one jailed process, in which variables persist from call to call.
//!
//! Whole pictures that are copied between policy and code: of the task's, none. It is decoded once for the group, when its sessions are opened,
//! into memory that every session maps, and Pillow and OpenCV open the mapping itself; code that writes to it copies the pages that it writes.
//! The first call of a sequence copies the file, compressed as it is, into the session's folder. An image that comes back, saved as a PNG without
//! settings, is copied five times: out of the library that made it, into a PNG's layout, into the file (code may open it again), into the socket,
//! as pixels, and out of it; the policy takes these as they are. It is neither compressed nor decoded on its way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::prompt::ImageSource;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{CallStatus, Subject, Tool, ToolFault, ToolImage, ToolOutput, ToolSession};
use crate::sandbox::{Guarantee, InputImage, Sandbox, SandboxError, SandboxOptions, Session, Status, Versions};

/// Side in pixels of the blank picture that code finds when a task has none.
const BLANK_SIDE: u32 = 64;

/// Settings of the tool `python`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PythonSettings {
    /// Wall time of one run.
    pub timeout_seconds: f64,
    /// Memory of one session.
    pub memory_mib: u64,
    /// Files of one session.
    pub disk_mib: u64,
    /// Guarantees of the sandbox whose absence is accepted, by key.
    pub consent: Vec<Guarantee>,
}

impl Default for PythonSettings {
    fn default() -> Self {
        let options = SandboxOptions::default();
        Self {
            timeout_seconds: options.timeout.as_secs_f64(),
            memory_mib: options.memory_bytes >> 20,
            disk_mib: options.disk_bytes >> 20,
            consent: options.consent,
        }
    }
}

/// Longest run, in seconds.
const SECONDS_MAX: f64 = 1e6;
/// Most memory or disk of a session.
const MIB_MAX: u64 = 1 << 20;

impl PythonSettings {
    /// As the sandbox takes them.
    ///
    /// # Errors
    /// When a value cannot be.
    pub fn options(&self) -> Result<SandboxOptions, ToolFault> {
        let refuse = |reason| Err(ToolFault { tool: "python", reason });
        if !(self.timeout_seconds > 0.0 && self.timeout_seconds <= SECONDS_MAX) {
            let seconds = self.timeout_seconds;
            return refuse(format!(
                "timeout_seconds is {seconds}: give a number of seconds above 0, at most {SECONDS_MAX}"
            ));
        }
        for (key, mib) in [("memory_mib", self.memory_mib), ("disk_mib", self.disk_mib)] {
            if !(1..=MIB_MAX).contains(&mib) {
                return refuse(format!("{key} is {mib}: give a whole number from 1 to {MIB_MAX}"));
            }
        }
        Ok(SandboxOptions {
            timeout: Duration::from_secs_f64(self.timeout_seconds),
            memory_bytes: self.memory_mib << 20,
            disk_bytes: self.disk_mib << 20,
            consent: self.consent.clone(),
            ..SandboxOptions::default()
        })
    }
}

/// The tool: one sandbox.
pub struct Python {
    sandbox: Sandbox,
}

impl Python {
    /// Starts a sandbox.
    ///
    /// # Errors
    /// When the machine offers no python or too few walls.
    pub fn start(settings: &PythonSettings) -> Result<Self, ToolFault> {
        Ok(Self { sandbox: Sandbox::start(settings.options()?).map_err(fault)? })
    }

    /// The tool on a sandbox that runs already.
    pub fn new(sandbox: Sandbox) -> Self {
        Self { sandbox }
    }
}

fn fault(error: SandboxError) -> ToolFault {
    ToolFault { tool: "python", reason: error.to_string() }
}

/// The picture that code works on: the task's first, as it came, under the name that the prompt gives it.
fn input(subject: &Subject<'_>) -> Result<InputImage, ToolFault> {
    let unnamed = Path::new("image.png");
    let Some(source) = subject.images.first() else {
        let blank = image::RgbImage::from_pixel(BLANK_SIDE, BLANK_SIDE, image::Rgb([255; 3]));
        return InputImage::from_rgb(&blank, unnamed).map_err(fault);
    };
    let input = match source.original() {
        ImageSource::Path(path) => InputImage::read(&subject.folder.join(path)).map_err(fault)?,
        ImageSource::DataUrl(_) | ImageSource::Memory(_) | ImageSource::Sized(..) => {
            let pixels =
                source.load(subject.folder).map_err(|error| ToolFault { tool: "python", reason: error.to_string() })?;
            InputImage::from_rgb(&pixels, unnamed).map_err(fault)?
        }
    };
    Ok(input.named(subject.image_name))
}

impl Tool for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn schema(&self) -> Option<Value> {
        let code = json!({"type": "string", "description": "A program of Python 3."});
        let parameters = json!({"type": "object", "properties": {"code": code}, "required": ["code"]});
        let description =
            "Runs Python in a sandbox. The picture is at `image_path`; an image whose path is printed is shown.";
        Some(json!({"type": "function", "function": {
            "name": "python", "description": description, "parameters": parameters,
        }}))
    }

    fn request(&self, arguments: &Value) -> Result<String, String> {
        let code = arguments.get("code").and_then(Value::as_str);
        code.map(str::to_owned).ok_or_else(|| "python takes {\"code\": \"...\"}, a program as a string".to_owned())
    }

    fn versions(&self) -> BTreeMap<String, String> {
        let Versions { python, numpy, opencv, pillow } = self.sandbox.interpreter().versions.clone();
        let named = [("python", python), ("numpy", numpy), ("opencv", opencv), ("pillow", pillow)];
        named.map(|(name, version)| (name.to_owned(), version)).into()
    }

    fn open(&self, subject: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        let input = self.sandbox.decoded(input(subject)?);
        let session = |_| -> Box<dyn ToolSession> { Box::new(PythonSession(self.sandbox.session(input.clone()))) };
        Ok((0..sessions).map(session).collect())
    }
}

struct PythonSession(Session);

impl ToolSession for PythonSession {
    fn run(&mut self, request: &str, _: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        let execution = self.0.run(request).map_err(fault)?;
        let status = match execution.status {
            Status::Ok => CallStatus::Ok,
            Status::Error => CallStatus::Error,
            Status::Timeout => CallStatus::Timeout,
            Status::Denied => CallStatus::Denied,
        };
        let image = |produced: crate::sandbox::ProducedImage| ToolImage {
            name: produced.name,
            label: Path::new(&produced.label).file_name().unwrap_or_default().to_string_lossy().into_owned(),
            pixels: produced.image.into(),
            widened: produced.widened,
        };
        Ok(ToolOutput {
            status,
            text: execution.text,
            images: execution.images.into_iter().map(image).collect(),
            seconds: execution.seconds,
            repairs: execution.repairs.iter().map(|repair| repair.to_string()).collect(),
        })
    }
}
