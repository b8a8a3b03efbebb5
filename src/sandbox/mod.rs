//! Model-written Python in a jail. A [`Sandbox`] holds one preforked interpreter; a [`Session`] is one sequence's process, in
//! which variables persist from run to run. A leaf: it imports no other module of the crate.
//!
//! Code sees `image_path`, `temp_output_dir` and an ordinary namespace; an image that it names by `processed_path` or by
//! printing its path comes back as an image, what it prints otherwise as text. The jail keeps four promises ([`Guarantee`]),
//! each by several mechanisms; [`Sandbox::walls`] says which stand on this machine.

mod interpreter;
mod jail;
mod repair;
mod zygote;

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use interpreter::Interpreter;
pub use jail::{Guarantee, Walls};
pub use repair::Repair;

use zygote::{Ended, Limit, Wire, Zygote};

/// The largest side of an image that goes in or comes out, in pixels.
const SIDE_MAX: u32 = 32_768;
/// The memory that decoding an image of model code may take.
const PRODUCED_DECODE_BYTES: u64 = 256 << 20;
/// The memory that decoding an input image may take.
const INPUT_DECODE_BYTES: u64 = 2 << 30;

/// Why the sandbox could not start or go on. What model code does wrong is never one of these: it is an [`Execution`].
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A guarantee has no mechanism on this machine.
    #[error(
        "the sandbox cannot hold on this machine that {}: no mechanism for it is left. Run where Landlock, user namespaces or \
         seccomp are offered, or accept it with `sandbox.consent = [\"{}\"]` in the recipe",
        guarantee.promise(), guarantee.key()
    )]
    NoWall {
        /// The guarantee that nothing holds.
        guarantee: Guarantee,
    },
    /// `THYME_PYTHON` names an interpreter that will not do.
    #[error(
        "THYME_PYTHON is {python:?}, but {reason}. Point it to a Python 3.9 or newer with numpy, opencv-python-headless and pillow, or unset it"
    )]
    ThymePython {
        /// The value of the variable.
        python: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The managed environment could not be made.
    #[error(
        "`{step}` failed: {reason}. Install python3 with venv and pip (Debian: `apt install python3 python3-venv python3-pip`) and \
         let it reach PyPI once, or set THYME_PYTHON to a Python that has numpy, opencv-python-headless and pillow"
    )]
    MakePython {
        /// The command that failed.
        step: String,
        /// Its last line.
        reason: String,
    },
    /// There is no place for the managed environment.
    #[error(
        "neither XDG_CACHE_HOME nor HOME is set, so there is no place for the sandbox's Python; set one of them or THYME_PYTHON"
    )]
    NoCacheFolder,
    /// A folder could not be used.
    #[error(
        "cannot use the folder {path:?}: {source}. Free space there or make it writable (TMPDIR and XDG_CACHE_HOME move it)"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The interpreter did not start.
    #[error("cannot run {python:?}: {source}. Set THYME_PYTHON to a working Python")]
    Spawn {
        /// The interpreter.
        python: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The interpreter started, but did not get ready.
    #[error("the sandbox's interpreter did not get ready: {reason}. Run `thyme-engine doctor` to see what is missing")]
    Start {
        /// What it said last.
        reason: String,
    },
    /// The seccomp program did not compile.
    #[error("the seccomp filter could not be made: {reason}")]
    Seccomp {
        /// What the compiler said.
        reason: String,
    },
    /// A session could not be forked, even from a new zygote.
    #[error("a sandbox session cannot be started: {reason}. Check that memory and the limit of processes suffice")]
    Fork {
        /// What the system said.
        reason: String,
    },
    /// A wall that stood at the start did not stand in a session, which ran nothing.
    #[error("a sandbox session could not be shut in, so nothing was run: {reason}")]
    WallFell {
        /// What the session said.
        reason: String,
    },
    /// The input image cannot be read.
    #[error("cannot read the image {path:?}: {reason}. Give a PNG, JPEG, WebP, GIF or BMP file")]
    Image {
        /// The file, or the name that the bytes were given under.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A produced image cannot be saved.
    #[error("cannot write {path:?}: {source}. Give a folder that exists or can be made, with space left")]
    Output {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

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
    pub output_bytes: usize,
    /// Images that one run may give back.
    pub images: usize,
    /// Bytes of image files that one run may give back, in all.
    pub reply_bytes: usize,
    /// Guarantees whose absence is accepted.
    pub consent: Vec<Guarantee>,
    /// As root, become this user before any wall is raised: the sandbox then has the rights of an ordinary user.
    pub as_user: Option<u32>,
}

impl Default for SandboxOptions {
    fn default() -> SandboxOptions {
        SandboxOptions {
            timeout: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            disk_bytes: 64 << 20,
            output_bytes: 64 << 10,
            images: 16,
            reply_bytes: 64 << 20,
            consent: Vec::new(),
            as_user: None,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The code ran to its end.
    Ok,
    /// It raised, did not parse, or its process died.
    Error,
    /// The deadline passed, and the process was killed.
    Timeout,
    /// A wall stopped it.
    Denied,
}

/// An image that code produced, checked and decoded on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducedImage {
    /// The path as the code named it; it exists only inside the jail.
    pub path: String,
    /// The file as the code wrote it.
    pub bytes: Vec<u8>,
    /// The pixels; alpha is laid onto white.
    pub image: RgbImage,
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// How it ended.
    pub status: Status,
    /// What was printed, without lines that only name a produced image; after it the error, if there was one.
    pub text: String,
    /// The images, in the order in which they were named.
    pub images: Vec<ProducedImage>,
    /// Wall time, the start of the session included.
    pub seconds: f64,
    /// The repairs that were made.
    pub repairs: Vec<Repair>,
    /// This run began without the variables of earlier runs, because their process was killed or died.
    pub variables_lost: bool,
}

/// The input image of a session, shared cheaply by the sequences of a group: the picture that the model was shown, so that
/// coordinates mean the same to both. EXIF orientation is applied and transparency laid onto white; a file that needs neither
/// is passed on as it is.
#[derive(Clone, Debug)]
pub struct InputImage {
    bytes: Arc<[u8]>,
    name: String,
    size: (u32, u32),
}

impl InputImage {
    /// A file. Errors name it and what is wrong.
    pub fn read(path: &Path) -> Result<InputImage, SandboxError> {
        let bytes =
            fs::read(path).map_err(|error| SandboxError::Image { path: path.to_owned(), reason: error.to_string() })?;
        InputImage::from_bytes(bytes, path)
    }

    /// The bytes of an image file; `path` gives the name that code sees, and is where it came from in errors.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<InputImage, SandboxError> {
        let (image, is_as_stored) = decode(&bytes, INPUT_DECODE_BYTES)
            .map_err(|reason| SandboxError::Image { path: path.to_owned(), reason })?;
        let (size, name) = ((image.width(), image.height()), file_name(path, "image.png"));
        // PIL and OpenCV look at the first bytes, not at the name: under its own name a PNG is found where the prompt says.
        let bytes = if is_as_stored { bytes } else { png(&flatten(image), path)? };
        Ok(InputImage { bytes: bytes.into(), name, size })
    }

    /// Pixels, written as PNG. `path` gives the name that code sees.
    pub fn from_rgb(image: &RgbImage, path: &Path) -> Result<InputImage, SandboxError> {
        let bytes = png(image, path)?;
        let name = Path::new(&file_name(path, "image.png")).with_extension("png");
        Ok(InputImage { bytes: bytes.into(), name: file_name(&name, "image.png"), size: image.dimensions() })
    }

    /// Width and height in pixels, as code sees them.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }
}

/// Pixels as a PNG file; `path` is named in errors.
fn png(image: &RgbImage, path: &Path) -> Result<Vec<u8>, SandboxError> {
    let mut bytes = Vec::new();
    let written = image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png);
    written.map_err(|error| SandboxError::Image { path: path.to_owned(), reason: error.to_string() })?;
    Ok(bytes)
}

/// The last part of a path if it is a plain name, else `otherwise`.
fn file_name(path: &Path, otherwise: &str) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(otherwise);
    let is_plain =
        name.len() <= 100 && name.chars().all(|c| c.is_alphanumeric() || "._- ".contains(c)) && !name.starts_with('.');
    if is_plain && name.contains('.') { name.to_owned() } else { otherwise.to_owned() }
}

/// Decodes untrusted bytes within limits and applies EXIF orientation; also whether the stored pixels are already upright and
/// opaque.
fn decode(bytes: &[u8], memory_bytes: u64) -> Result<(DynamicImage, bool), String> {
    // A decoder that panics on damaged bytes must not end the run.
    catch_unwind(AssertUnwindSafe(|| decode_upright(bytes, memory_bytes)))
        .unwrap_or_else(|_| Err("the data is damaged".to_owned()))
}

fn decode_upright(bytes: &[u8], memory_bytes: u64) -> Result<(DynamicImage, bool), String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("it is not an image of a known format".to_owned());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(memory_bytes);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let orientation = decoder.orientation().map_err(|error| error.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    let is_as_stored = orientation == Orientation::NoTransforms && !image.color().has_alpha();
    Ok((image, is_as_stored))
}

/// The pixels, alpha laid onto white.
fn flatten(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, alpha] = image.get_pixel(x, y).0;
        let onto_white =
            |value: u8| ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8;
        image::Rgb([onto_white(r), onto_white(g), onto_white(b)])
    })
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
        Ok(Sandbox { shared: Arc::new(Shared { options, interpreter, zygote: Mutex::new(zygote) }), walls })
    }

    /// Which mechanisms stand for which guarantee.
    pub fn walls(&self) -> &Walls {
        &self.walls
    }

    /// The interpreter in use.
    pub fn interpreter(&self) -> &Interpreter {
        &self.shared.interpreter
    }

    /// The process number of the zygote, for those who watch or test it.
    pub fn zygote_process(&self) -> u32 {
        self.shared.zygote.lock().unwrap_or_else(PoisonError::into_inner).process()
    }

    /// A session for one sequence. Its process is forked at the first run.
    pub fn session(&self, image: InputImage) -> Session {
        Session { shared: Arc::clone(&self.shared), image, process: None, rounds: 0, lost: false }
    }
}

impl Shared {
    /// A new session's wire. A zygote that has died is replaced once per call.
    fn connect(&self) -> Result<(Arc<Zygote>, Wire), SandboxError> {
        let mut current = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        let zygote = Arc::clone(&current);
        if let Ok(wire) = zygote.connect() {
            return Ok((zygote, wire));
        }
        *current = Arc::new(Zygote::start(&self.options, &self.interpreter)?);
        let zygote = Arc::clone(&current);
        drop(current);
        match zygote.connect() {
            Ok(wire) => Ok((zygote, wire)),
            Err(error) => Err(SandboxError::Fork { reason: error.to_string() }),
        }
    }
}

/// One sequence's process: variables persist through its runs. Dropping it ends the process.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    image: InputImage,
    process: Option<(Arc<Zygote>, Wire)>,
    /// Runs since the process was forked.
    rounds: u64,
    /// A process with variables was killed or died, and no run since has said so.
    lost: bool,
}

/// What a session's process answers. It is not trusted.
#[derive(Deserialize)]
struct Reply {
    broken: Option<String>,
    status: Option<Status>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    images: Vec<String>,
    #[serde(default)]
    repairs: Vec<String>,
    #[serde(default)]
    round: u64,
}

impl Session {
    /// Runs code to its end or to the deadline. Errors are ours; the code's own are in the [`Execution`].
    pub fn run(&mut self, code: &str) -> Result<Execution, SandboxError> {
        let started = Instant::now();
        let variables_lost = std::mem::take(&mut self.lost);
        let mut execution = match self.exchange(code, started) {
            Ok((reply, blobs)) => {
                if let Some(reason) = reply.broken {
                    self.end_process();
                    return Err(SandboxError::WallFell { reason });
                }
                self.execution_of(reply, blobs)
            }
            Err(Failure::Ours(error)) => return Err(error),
            Err(Failure::Theirs(ended)) => self.after_the_end(&ended),
        };
        if variables_lost && execution.status != Status::Ok {
            execution.text.push_str("\n(The variables of earlier runs were lost.)");
        }
        execution.variables_lost = variables_lost;
        execution.seconds = started.elapsed().as_secs_f64();
        Ok(execution)
    }

    /// One request and its reply.
    fn exchange(&mut self, code: &str, started: Instant) -> Result<(Reply, Vec<Vec<u8>>), Failure> {
        let options = &self.shared.options;
        let deadline = started + options.timeout;
        let is_new = self.process.is_none();
        if is_new {
            self.process = Some(self.shared.connect().map_err(Failure::Ours)?);
            self.rounds = 0;
        }
        let Some((_, wire)) = &mut self.process else { return Err(Failure::Theirs(Ended::Gone)) };
        let limit = Limit { deadline, folder: wire.folder.as_deref().map(|folder| (folder, options.disk_bytes)) };
        if is_new {
            let setup = json!({"name": self.image.name, "size": [self.image.size.0, self.image.size.1]});
            zygote::write_frame(&mut wire.stream, setup, &[&self.image.bytes], &limit)?;
        }
        self.rounds += 1;
        zygote::write_frame(&mut wire.stream, json!({"code": code}), &[], &limit)?;
        // A character is at most 12 bytes of JSON; paths and messages are short beside the rest.
        let header_max = options.output_bytes * 12 + (1 << 20);
        let (header, blobs) = zygote::read_frame(&mut wire.stream, &limit, header_max, options.reply_bytes)?;
        let reply: Reply = serde_json::from_slice(&header).map_err(|_| Ended::Malformed("not a reply"))?;
        if reply.broken.is_none() && (reply.round != self.rounds || reply.images.len() != blobs.len()) {
            return Err(Ended::Malformed("a reply to another request").into());
        }
        Ok((reply, blobs))
    }

    fn execution_of(&self, reply: Reply, blobs: Vec<Vec<u8>>) -> Execution {
        let options = &self.shared.options;
        // The interpreter has cut the text; one that lies about it is cut here.
        let mut text: String = reply.text.chars().take(options.output_bytes + (8 << 10)).collect();
        let mut images = Vec::new();
        for (path, bytes) in reply.images.into_iter().zip(blobs).take(options.images) {
            match decode(&bytes, PRODUCED_DECODE_BYTES) {
                Ok((image, _)) => images.push(ProducedImage { path, bytes, image: flatten(image) }),
                Err(reason) => text.push_str(&format!("\n[{path} cannot be shown: {reason}]")),
            }
        }
        Execution {
            status: reply.status.unwrap_or(Status::Error),
            text,
            images,
            seconds: 0.0,
            repairs: Repair::of_names(&reply.repairs),
            variables_lost: false,
        }
    }

    /// The process did not answer: it is ended, and the execution says why.
    fn after_the_end(&mut self, ended: &Ended) -> Execution {
        let had_variables = self.rounds > 1;
        self.end_process();
        self.lost = true;
        let (status, mut text) = match ended {
            Ended::Late => {
                let seconds = self.shared.options.timeout.as_secs_f64();
                (Status::Timeout, format!("Execution timed out after {seconds} seconds."))
            }
            Ended::Full => (
                Status::Error,
                format!("The code wrote more than {} bytes of files and was ended.", self.shared.options.disk_bytes),
            ),
            Ended::Gone => (Status::Error, "The code ended its own interpreter.".to_owned()),
            Ended::Malformed(_) => (Status::Denied, "The code disturbed the interpreter and was ended.".to_owned()),
        };
        if had_variables {
            text.push_str(" The variables of earlier runs are lost.");
        }
        Execution { status, text, images: Vec::new(), seconds: 0.0, repairs: Vec::new(), variables_lost: false }
    }

    fn end_process(&mut self) {
        if let Some((zygote, wire)) = self.process.take() {
            zygote.kill(wire);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_process();
    }
}

/// Why there is no reply: the sandbox failed, or the code's process did.
enum Failure {
    Ours(SandboxError),
    Theirs(Ended),
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Failure {
        Failure::Theirs(ended)
    }
}

/// Runs one program on one image file and saves what it produced into `output_dir`, made if it is missing. Gives
/// `{"status", "text", "images": [paths], "seconds"}`.
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
    Ok(json!({"status": execution.status, "text": execution.text, "images": paths, "seconds": execution.seconds}))
}

/// Writes each image under the name that code gave it, if it is a plain and new one.
fn save_images(images: &[ProducedImage], folder: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let failed = |path: &Path, source| SandboxError::Output { path: path.to_owned(), source };
    if !images.is_empty() {
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let numbered = format!("image-{}.png", index + 1);
        let mut path = folder.join(file_name(Path::new(&image.path), &numbered));
        if paths.contains(&path) {
            path = folder.join(&numbered);
        }
        fs::write(&path, &image.bytes).map_err(|source| failed(&path, source))?;
        paths.push(path);
    }
    Ok(paths)
}
