//! The Python that does the same: `worker.py`, warm, at the other end of two pipes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};
use thyme_engine::sandbox::{Interpreter, SandboxError, Versions};

/// A running worker.
pub struct PythonWorker {
    process: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    /// What it runs on.
    pub versions: Versions,
}

/// What came of a request.
pub struct Reply {
    /// Seconds of the operation alone, on decoded pictures.
    pub seconds: f64,
    /// The pictures that it made, as PNG.
    pub images: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Head {
    seconds: f64,
    images: Vec<usize>,
}

impl PythonWorker {
    /// Starts it in the Python in which the sandbox runs code.
    ///
    /// # Errors
    /// When there is none with numpy, OpenCV and Pillow.
    pub fn start() -> Result<Self, SandboxError> {
        let Interpreter { path, versions } = Interpreter::find()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/image_tools/worker.py");
        let mut command = Command::new(path);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the interpreter that was just found runs");
        let requests = process.stdin.take().expect("a pipe");
        let replies = BufReader::with_capacity(1 << 16, process.stdout.take().expect("a pipe"));
        Ok(Self { process, requests, replies, versions })
    }

    /// Has an operation done on pictures in PNG.
    pub fn call(&mut self, operation: &str, arguments: &Value, pictures: &[Vec<u8>]) -> Reply {
        let lengths: Vec<usize> = pictures.iter().map(Vec::len).collect();
        let head = json!({"operation": operation, "arguments": arguments, "images": lengths});
        writeln!(self.requests, "{head}").expect("the worker reads");
        for picture in pictures {
            self.requests.write_all(picture).expect("the worker reads");
        }
        self.requests.flush().expect("the worker reads");
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("the worker answers");
        let head: Head = serde_json::from_str(&line).expect("the worker says on stderr why it ended");
        let mut images = Vec::new();
        for length in head.images {
            let mut image = vec![0; length];
            self.replies.read_exact(&mut image).expect("the worker answers");
            images.push(image);
        }
        Reply { seconds: head.seconds, images }
    }
}

impl Drop for PythonWorker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}
