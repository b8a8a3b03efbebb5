//! Model-written Python in a jail. A [`Sandbox`] holds one preforked interpreter; a [`Session`] is one sequence's process, in
//! which variables persist from run to run. A leaf: of the crate it imports `files` only.
//!
//! Code sees `image_path`, `temp_output_dir` and an ordinary namespace; an image that it names by `processed_path` or by
//! printing its path comes back as an image, what it prints otherwise as text. The jail keeps four promises ([`Guarantee`]),
//! each by several mechanisms; [`Sandbox::walls`] says which stand on this machine, and what a probe found that tried to break them.
//!
//! - **The host's side**: `zygote.rs` starts the interpreter that imports the modules once, and forks a session from it; `session.rs` talks to a
//!   session; `reply.rs` holds a reply to the request's nonce and to bounds, and the process is stopped until it is asked again; `image.rs`
//!   takes images as pixels within a bound; `disk.rs` measures what a session without a tmpfs holds; `repair.rs` mends code of models.
//! - **The walls**: `jail.py` and `jail.rs` raise them, `calls.rs` says which system calls pass and with which arguments, `probe.py` tries to break every
//!   wall when a sandbox starts.
//! - **In the jail**: `session.py` runs the code and changes no value of it; `parts.py` knows which part of the input picture a file shows, and shows
//!   small ones wider; `shown.py` sends pictures out as pixels; `paths.py` moves writes that are refused into the output folder; `printed.py` finds paths in text, in
//!   linear time; `old_names.py` has names that the libraries dropped; `guard.py` undoes damage to the interpreter.

mod calls;
mod disk;
mod error;
mod frames;
mod image;
mod interpreter;
mod jail;
mod probe;
mod repair;
mod reply;
mod scratch;
mod session;
mod zygote;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

pub use error::SandboxError;
pub use image::{InputImage, ProducedImage, plain_name, png, save_new};
pub use interpreter::{Interpreter, Versions};
pub use jail::{Attempt, Guarantee, Offered, Walls};
pub use repair::Repair;
pub use reply::Widened;
pub use session::{Execution, Session, Status};

use image::save_images;
use zygote::{Connection, Zygote};

/// What bounds the code, and which missing guarantees are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxOptions {
    /// Wall time of one run.
    pub timeout: Duration,
    /// Address space that a session may add to the interpreter's own.
    pub memory_bytes: u64,
    /// Bytes of all files that a session holds at once.
    pub disk_bytes: u64,
    /// Characters of printed text kept per run; the rest is counted and cut.
    pub output_characters: usize,
    /// Images that one run may give back.
    pub images: usize,
    /// Bytes of pixels (three each) of the images that one run may give back, in all.
    pub image_bytes: u64,
    /// Guarantees whose absence is accepted.
    pub consent: Vec<Guarantee>,
    /// As root, become this user before any wall is raised: the sandbox then has the rights of an ordinary user.
    pub as_user: Option<u32>,
    /// The walls as if the kernel offered no more than these.
    pub offered: Offered,
}

impl Default for SandboxOptions {
    fn default() -> SandboxOptions {
        SandboxOptions {
            timeout: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            disk_bytes: 64 << 20,
            output_characters: 64 << 10,
            images: 16,
            image_bytes: 256 << 20,
            consent: Vec::new(),
            as_user: None,
            offered: Offered::default(),
        }
    }
}

/// One preforked interpreter. Share it by reference or `Arc`: sessions of many threads run side by side.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    walls: Walls,
}

#[derive(Debug)]
struct Shared {
    options: SandboxOptions,
    interpreter: Interpreter,
    zygote: Mutex<Arc<Zygote>>,
    /// Held while a zygote is started in the place of one that ended.
    restart: Mutex<()>,
}

impl Sandbox {
    /// Finds an interpreter and starts the zygote (about 0.3 s; the first time ever it may install packages, and says so).
    pub fn start(options: SandboxOptions) -> Result<Sandbox, SandboxError> {
        Sandbox::start_with(options, Interpreter::find()?)
    }

    /// Starts the zygote of a given interpreter.
    pub fn start_with(options: SandboxOptions, interpreter: Interpreter) -> Result<Sandbox, SandboxError> {
        let zygote = Arc::new(Zygote::start(&options, &interpreter)?);
        let walls = zygote.walls.clone();
        let shared = Shared { options, interpreter, zygote: Mutex::new(zygote), restart: Mutex::default() };
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

    /// A session for one sequence. Its process is forked at the first run.
    pub fn session(&self, image: InputImage) -> Session {
        Session::new(Arc::clone(&self.shared), image)
    }
}

impl Shared {
    fn current(&self) -> Arc<Zygote> {
        Arc::clone(&self.zygote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new session's connection. A zygote that has ended is replaced once per call; one that lives is kept, whatever it could not do.
    fn connect(&self) -> Result<(Arc<Zygote>, Connection), SandboxError> {
        let failed = |error: io::Error| SandboxError::Fork { reason: error.to_string() };
        let zygote = self.current();
        match zygote.connect() {
            Ok(connection) => return Ok((zygote, connection)),
            Err(error) if !zygote.has_ended() => return Err(failed(error)),
            Err(_) => {}
        }
        let zygote = self.replaced(&zygote)?;
        let connection = zygote.connect().map_err(failed)?;
        Ok((zygote, connection))
    }

    /// The zygote in the place of one that has ended. One thread starts it; others wait for that one.
    fn replaced(&self, ended: &Arc<Zygote>) -> Result<Arc<Zygote>, SandboxError> {
        let _restart = self.restart.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        if !Arc::ptr_eq(&current, ended) {
            return Ok(current);
        }
        let new = Arc::new(Zygote::start(&self.options, &self.interpreter)?);
        *self.zygote.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(new)
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
