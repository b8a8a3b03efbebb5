//! The built binary as it is attacked: a server that takes requests, a server whose weights are replaced, commands in folders of their own.
//! An input that meets a fault is given once more, alone and to a new process, so that the fault is told of the input that makes it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;

use super::wire::{Reply, Request, converse, post};
use crate::support::command::Workplace;
use crate::support::server::{Server, init};

/// Longer than this nothing may take.
pub const LIMIT: Duration = Duration::from_secs(10);
/// A server that has more memory than this is ended, for the sake of the machine.
const SERVER_BYTES_MAX: u64 = 4 << 30;
/// Memory that a command may have; it loads models of less than a megabyte.
const COMMAND_BYTES_MAX: u64 = 1 << 30;
/// So much of a log is shown.
const TAIL_BYTES: usize = 800;

/// Something that stands in a folder.
#[derive(Clone, Debug)]
pub enum Entry {
    File(Arc<Vec<u8>>),
    Folder,
    Fifo,
    Link(PathBuf),
}

impl Entry {
    pub fn file(bytes: impl AsRef<[u8]>) -> Entry {
        Entry::File(Arc::new(bytes.as_ref().to_vec()))
    }

    fn make(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match self {
            Entry::File(bytes) => std::fs::write(path, bytes.as_slice()).unwrap(),
            Entry::Folder => std::fs::create_dir_all(path).unwrap(),
            Entry::Fifo => {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            Entry::Link(to) => std::os::unix::fs::symlink(to, path).unwrap(),
        }
    }
}

/// Names, with folders, and what they are.
pub type Folder = Vec<(String, Entry)>;

fn make(folder: &Folder, path: &Path) {
    folder.iter().for_each(|(name, entry)| entry.make(&path.join(name)));
}

/// A command of the binary in a folder.
#[derive(Clone, Debug)]
pub struct Command {
    pub files: Folder,
    pub arguments: Vec<String>,
}

/// Something to give to the binary.
#[derive(Clone, Debug)]
pub enum Input {
    Request(Request),
    Command(Command),
    /// A folder whose weights a running server reads; then it answers a completion.
    Update(Folder),
}

impl Input {
    /// Writes it below `folder`, so that it can be given again by hand.
    pub fn save(&self, folder: &Path) {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).unwrap();
        match self {
            Input::Request(request) => std::fs::write(folder.join("request.http"), &request.bytes).unwrap(),
            Input::Command(command) => {
                make(&command.files, folder);
                std::fs::write(folder.join("arguments.txt"), command.arguments.join("\n")).unwrap();
            }
            Input::Update(files) => make(files, folder),
        }
    }
}

/// What came of an input.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// A status of HTTP, or how a command ended.
    pub status: String,
    /// What was answered or printed.
    pub text: String,
    pub took: Duration,
    /// What must not be.
    pub fault: Option<String>,
    /// The answer took too long beside others, and not alone.
    pub is_slow_in_company: bool,
}

/// A server and its log.
struct Host {
    server: Server,
    log: PathBuf,
}

impl Host {
    fn start() -> Host {
        let workplace = Workplace::new();
        init(&workplace, "tiny", 0);
        let (model, log) = (workplace.path("tiny"), workplace.path("log.txt"));
        let arguments = [
            "--trust-request-chat-template",
            "--max-model-len",
            "512",
            "--max-num-seqs",
            "8",
            "--kv-cache-memory-bytes",
            "33554432",
            "--client-timeout",
            "5",
            "--device",
            "cpu",
        ];
        Host { server: Server::start_with_log(workplace, &model, &arguments, &log), log }
    }

    /// How it ended, if it did; one that is about to is waited for.
    fn ended(&mut self) -> Option<String> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            if let Some(status) = self.server.try_ended() {
                return Some(format!("the server ended: {status}; {}", tail(&self.log)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let from =
        (text.len().saturating_sub(TAIL_BYTES)..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[from..].trim().to_owned()
}

/// What is attacked.
pub struct Target {
    /// Takes requests; it is written to while an input is alone.
    requests: RwLock<Host>,
    weights: Mutex<Host>,
    /// The process of `requests`.
    pid: AtomicU32,
    most_bytes: AtomicU64,
    /// Times that the server was found dead, and times that an input alone ended it.
    deaths: AtomicUsize,
    explained: AtomicUsize,
    is_over: AtomicBool,
}

impl Target {
    pub fn start() -> Target {
        let requests = Host::start();
        Target {
            pid: AtomicU32::new(requests.server.pid()),
            requests: RwLock::new(requests),
            weights: Mutex::new(Host::start()),
            most_bytes: AtomicU64::new(0),
            deaths: AtomicUsize::new(0),
            explained: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// The checkpoint that the servers run.
    pub fn model(&self) -> PathBuf {
        self.requests.read().unwrap().server.workplace.path("tiny")
    }

    pub fn give(&self, input: &Input) -> Outcome {
        match input {
            Input::Request(request) => self.request(request),
            Input::Command(command) => self.command(command),
            Input::Update(folder) => self.update(folder),
        }
    }

    fn request(&self, request: &Request) -> Outcome {
        let (reply, took) = {
            let host = self.requests.read().unwrap();
            let began = Instant::now();
            (converse(&host.server.address, request, LIMIT), began.elapsed())
        };
        let (fault, (status, text)) = (fault_of(&reply), read(&reply));
        let outcome = Outcome { status, text, took, fault: None, is_slow_in_company: false };
        if fault.is_none() {
            return outcome;
        }
        let mut host = self.requests.write().unwrap();
        if host.ended().is_some() {
            self.deaths.fetch_add(1, Ordering::Relaxed);
            self.restart(&mut host);
        } else if matches!(reply, Reply::Slow) {
            self.restart(&mut host);
        }
        let again = converse(&host.server.address, request, LIMIT);
        let (mut fault, (status, text)) = (fault_of(&again), read(&again));
        if fault.is_some()
            && let Some(end) = host.ended()
        {
            fault = Some(end);
            self.explained.fetch_add(1, Ordering::Relaxed);
        }
        if fault.is_some() {
            self.restart(&mut host);
        }
        let is_slow_in_company = fault.is_none() && matches!(reply, Reply::Slow);
        Outcome { status, text, fault, is_slow_in_company, ..outcome }
    }

    fn restart(&self, host: &mut Host) {
        *host = Host::start();
        self.pid.store(host.server.pid(), Ordering::Relaxed);
    }

    fn update(&self, folder: &Folder) -> Outcome {
        let place = tempfile::tempdir().unwrap();
        make(folder, place.path());
        let mut host = self.weights.lock().unwrap();
        let outcome = update(&mut host, place.path());
        if !outcome.is_slow_in_company {
            return outcome;
        }
        let _alone = self.requests.write().unwrap();
        let again = update(&mut host, place.path());
        let fault = again.is_slow_in_company.then(|| format!("no answer in {} s", LIMIT.as_secs())).or(again.fault);
        Outcome { is_slow_in_company: fault.is_none(), fault, ..again }
    }

    fn command(&self, command: &Command) -> Outcome {
        let outcome = run(command);
        if !outcome.is_slow_in_company {
            return outcome;
        }
        let _alone = self.requests.write().unwrap();
        let again = run(command);
        match again.is_slow_in_company {
            true => {
                Outcome { fault: Some(format!("no end in {} s", LIMIT.as_secs())), is_slow_in_company: false, ..again }
            }
            false => Outcome { is_slow_in_company: true, ..again },
        }
    }

    /// Notes the server's memory until the end, and ends a server that has too much.
    pub fn watch(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let pid = self.pid.load(Ordering::Relaxed);
            let bytes = resident_bytes(pid);
            self.most_bytes.fetch_max(bytes, Ordering::Relaxed);
            if bytes > SERVER_BYTES_MAX
                && let Some(pid) = rustix::process::Pid::from_raw(pid as i32)
            {
                eprintln!("a server has {bytes} bytes of memory and is ended");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends [`Target::watch`].
    pub fn end_watch(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// The most memory that the server had.
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes.load(Ordering::Relaxed)
    }

    /// Whether the server ended, and no input alone ended it.
    pub fn is_death_unexplained(&self) -> bool {
        self.deaths.load(Ordering::Relaxed) > 0 && self.explained.load(Ordering::Relaxed) == 0
    }

    /// The server's memory once it has nothing to do, has forgotten the prompts that it answered, and a pause is over.
    pub fn settled_bytes(&self, pause: Duration) -> u64 {
        let host = self.requests.read().unwrap();
        for name in ["num_requests_running", "num_requests_waiting"] {
            host.server.wait_for(name, 0.0);
        }
        // What is kept for prompts that come again has its own bounds.
        assert_eq!(host.server.post("/reset_prefix_cache", &json!({})).status, 200);
        std::thread::sleep(pause);
        resident_bytes(host.server.pid())
    }
}

/// Lets a server read weights and answer a completion; a server that met a fault is replaced.
fn update(host: &mut Host, folder: &Path) -> Outcome {
    let update = post("/update_weights", json!({"weight_dir": folder}).to_string().as_bytes());
    let completion = post("/v1/completions", json!({"prompt": "a", "max_tokens": 2}).to_string().as_bytes());
    let began = Instant::now();
    let replies = [update, completion].map(|request| converse(&host.server.address, &request, LIMIT));
    let took = began.elapsed();
    let (status, text) = read(&replies[0]);
    let is_slow = replies.iter().any(|reply| matches!(reply, Reply::Slow));
    let mut fault = replies.iter().find_map(fault_of);
    if fault.is_some() {
        let end = host.ended();
        fault = if is_slow { end } else { end.or(fault) };
        *host = Host::start();
    }
    Outcome { status, text, took, is_slow_in_company: is_slow && fault.is_none(), fault }
}

/// What must not be of a reply.
fn fault_of(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Answer(200, text) if !text.contains("\"server_error\"") => None,
        Reply::Answer(400..=499 | 501 | 503, _) => None,
        Reply::Answer(status, text) => {
            Some(format!("status {status}: {}", text.chars().take(TAIL_BYTES).collect::<String>()))
        }
        Reply::Dropped => None,
        Reply::Broken(reason) => Some(reason.clone()),
        Reply::Slow => Some(format!("no answer in {} s", LIMIT.as_secs())),
    }
}

fn read(reply: &Reply) -> (String, String) {
    match reply {
        Reply::Answer(status, text) => (status.to_string(), text.clone()),
        Reply::Dropped => ("dropped".to_owned(), String::new()),
        Reply::Broken(reason) => ("broken".to_owned(), reason.clone()),
        Reply::Slow => ("slow".to_owned(), String::new()),
    }
}

/// Runs a command to its end, or until it has taken too long or too much memory.
fn run(command: &Command) -> Outcome {
    let place = tempfile::tempdir().unwrap();
    make(&command.files, place.path());
    let log = place.path().join("log.txt");
    let output = File::create(&log).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_thyme-engine"))
        .args(&command.arguments)
        .current_dir(place.path())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let end = wait(&mut child);
    let took = began.elapsed();
    let text = tail(&log);
    let (status, fault) = match end {
        End::Slow => ("slow".to_owned(), None),
        End::Large(bytes) => ("large".to_owned(), Some(format!("{bytes} bytes of memory: {text}"))),
        End::Status(status) => {
            let is_orderly = matches!(status.code(), Some(0..=2));
            (named(status), (!is_orderly).then(|| format!("{}: {text}", named(status))))
        }
    };
    Outcome { status, text, took, fault, is_slow_in_company: matches!(end, End::Slow) }
}

/// How a command ended.
enum End {
    Status(ExitStatus),
    Slow,
    /// With so many bytes of memory.
    Large(u64),
}

/// Waits for a command, and kills it where it takes too long or too much memory.
fn wait(child: &mut Child) -> End {
    let began = Instant::now();
    loop {
        let bytes = bytes_of(child.id(), "VmHWM:");
        if let Some(status) = child.try_wait().unwrap() {
            return End::Status(status);
        }
        if bytes > COMMAND_BYTES_MAX || began.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            return if bytes > COMMAND_BYTES_MAX { End::Large(bytes) } else { End::Slow };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn named(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

/// A number of bytes that the system keeps of a process; 0 of one that has ended.
fn bytes_of(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Memory of a process and of those that it started.
fn resident_bytes(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let bytes = |pids: String| -> u64 {
        pids.split_whitespace().filter_map(|pid| Some(resident_bytes(pid.parse().ok()?))).sum()
    };
    bytes_of(pid, "VmRSS:") + children.map(bytes).sum::<u64>()
}
