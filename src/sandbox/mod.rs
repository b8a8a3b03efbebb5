//! Model-written Python, and a user's own, in a jail. A [`Sandbox`] holds one preforked interpreter; a [`Session`] is one sequence's process, in
//! which variables persist from run to run. A leaf: of the crate it imports `files` only.
//!
//! Code sees `image_path`, `temp_output_dir` and an ordinary namespace; an image that it names by `processed_path` or by
//! printing its path comes back as an image, what it prints otherwise as text. The jail keeps four promises ([`Guarantee`]),
//! each by several mechanisms; [`Sandbox::walls`] says which stand on this machine, and what a probe found that tried to break them.
//!
//! - **The host's side**: `options.rs` has the bounds that a user sets; `zygote.rs` starts the interpreter that imports the modules once, and forks a
//!   session from it; `shared.rs` replaces one that ended; `process.rs` asks a process, `session.rs` one with model code; `memory.rs` is how a file
//!   reaches a process; `reply.rs` holds a reply to the request's nonce and to bounds, and the process is stopped until it is asked again; `image.rs`
//!   takes images as pixels within a bound; `picture.rs` is the memory with the input picture that sessions map, and `decode.rs` has it decoded once
//!   for all of them; `disk.rs` measures what a session without a tmpfs holds; `repair.rs` mends code of models.
//! - **A user's own file** (`worker.rs`, `worker_pool.rs`, `worker.py`) runs behind the same walls: loaded once in each process, and called.
//! - **The walls**: `guarantee.rs` names what they hold, `jail.py` and `jail.rs` raise them, `calls.rs` says which system calls pass and with which
//!   arguments, `probe.py` tries to break every wall when a sandbox starts.
//! - **In the jail**: `session.py` runs the code and changes no value of it; `picture.py` has the input picture and its pixels; `parts.py`
//!   knows which part of it a file shows, and shows small ones wider; `libraries.py` repairs calls of Pillow and OpenCV; `shown.py` sends pictures
//!   out as pixels; `paths.py` moves writes that are refused into the output folder; `printed.py` finds paths in text, in linear time;
//!   `old_names.py` has names that the libraries dropped; `guard.py` undoes damage to the interpreter.

mod calls;
mod decode;
mod disk;
mod error;
mod frames;
mod guarantee;
mod image;
mod interpreter;
mod jail;
mod memory;
mod options;
mod picture;
mod probe;
mod process;
mod repair;
mod reply;
mod scratch;
mod session;
mod set_up;
mod shared;
mod worker;
mod worker_pool;
mod zygote;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

pub use error::SandboxError;
pub use guarantee::{Attempt, Guarantee};
pub use image::{InputImage, ProducedImage, Widened, plain_name, png, save_new};
pub use interpreter::{Interpreter, Versions};
pub use jail::{Offered, Walls};
pub use options::SandboxOptions;
pub use repair::Repair;
pub use reply::Status;
pub use session::{Execution, Session};
pub use worker::{Arguments, CallError, Called, FileKind, Returned, UserFile, Worker};
pub use worker_pool::WorkerPool;

use image::save_images;
use shared::Shared;

/// One preforked interpreter. Share it by reference or `Arc`: sessions of many threads run side by side.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    walls: Walls,
}

impl Sandbox {
    /// Finds an interpreter and starts the zygote (about 0.3 s; the first time ever it may install packages, and says so).
    pub fn start(options: SandboxOptions) -> Result<Sandbox, SandboxError> {
        Sandbox::start_with(options, Interpreter::find()?)
    }

    /// Starts the zygote of a given interpreter.
    pub fn start_with(options: SandboxOptions, interpreter: Interpreter) -> Result<Sandbox, SandboxError> {
        let shared = Shared::start(options, interpreter)?;
        let walls = shared.current().walls.clone();
        Ok(Sandbox { shared: Arc::new(shared), walls })
    }

    /// Which mechanisms stand for which guarantee, and whether they hold it.
    pub fn walls(&self) -> &Walls {
        &self.walls
    }

    /// The interpreter in use.
    pub fn interpreter(&self) -> &Interpreter {
        &self.shared.interpreter
    }

    /// The process number of the zygote, for those who watch or test it.
    pub fn zygote_process(&self) -> u32 {
        self.shared.current().process()
    }

    /// At most `workers` processes of a user's own file. The first loads it: what it says of itself, or what is wrong with it, comes with them.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn worker_pool(&self, file: UserFile, workers: usize) -> Result<(WorkerPool, Called), SandboxError> {
        WorkerPool::start(Arc::clone(&self.shared), file, workers)
    }

    /// The same picture with the pixels that Pillow and OpenCV make of it, so that no session decodes it. A JPEG is decoded by a process of the
    /// jail, which takes about as long as a first run; others come back as they are: their pixels are known, or each session decodes them.
    pub fn decoded(&self, image: InputImage) -> InputImage {
        decode::decoded(&self.shared, image)
    }

    /// A session for one sequence. Its process is forked at the first run.
    pub fn session(&self, image: InputImage) -> Session {
        Session::new(Arc::clone(&self.shared), image)
    }
}

/// Runs one program on one image file and saves what it produced into `output_dir`, made if it is missing. Gives
/// `{"status", "text", "images": [paths], "seconds"}`, where images were shown wider `"widened": [{"image", "from", "to"}]` with boxes as left,
/// top, right, bottom in pixels of the input, and where the code was repaired `"repairs": [names]`.
pub fn run_file(
    image: &Path,
    code: &str,
    timeout: Duration,
    output_dir: &Path,
) -> Result<serde_json::Value, SandboxError> {
    let image = InputImage::read(image)?;
    let sandbox = Sandbox::start(SandboxOptions { timeout, ..SandboxOptions::default() })?;
    let execution = sandbox.session(image).run(code)?;
    let paths = save_images(&execution.images, output_dir)?;
    let mut said =
        json!({"status": execution.status, "text": execution.text, "images": paths, "seconds": execution.seconds});
    let widened = execution.images.iter().zip(&paths).filter_map(|(image, path)| {
        let widened = image.widened.as_ref()?;
        Some(json!({"image": path, "from": widened.from, "to": widened.to}))
    });
    let widened: Vec<serde_json::Value> = widened.collect();
    if !widened.is_empty() {
        said["widened"] = widened.into();
    }
    if !execution.repairs.is_empty() {
        said["repairs"] = json!(execution.repairs);
    }
    Ok(said)
}
