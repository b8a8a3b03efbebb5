//! Weights & Biases, through its own Python client: a child that logs what it is told. It may be slow, lose its network or end; the run never
//! waits for it, and what it cannot take is dropped and counted.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::files::open::{SETTINGS_BYTES_MAX, read_text, replace};

const SCRIPT: &str = include_str!("wandb.py");
/// The interpreter: the user's own, as the shell finds it.
const PYTHON: &str = "python3";
/// The run's number at Weights & Biases, in the run's folder: a resumed run goes on there.
pub const WANDB_ID_FILE: &str = "wandb_id.txt";

/// Why metrics cannot go to Weights & Biases.
#[derive(Debug, thiserror::Error)]
pub enum WandbError {
    /// There is no interpreter.
    #[error(
        "`training.report_to` names wandb, whose client is a Python package, and {python} cannot be run: {source}; install Python 3, or \
         take \"wandb\" out of the key"
    )]
    Python {
        /// The interpreter.
        python: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The interpreter has no client.
    #[error(
        "`training.report_to` names wandb, and {python} cannot import it: {reason}; install it there ({python} -m pip install wandb), put the \
         folder of a python3 that has it first in PATH, or take \"wandb\" out of the key"
    )]
    Import {
        /// The interpreter.
        python: String,
        /// What it says.
        reason: String,
    },
}

/// The run as Weights & Biases shows it.
#[derive(Clone, Debug, Default)]
pub struct WandbRun {
    /// Its name, where `WANDB_NAME` has none.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its settings.
    pub config: Value,
}

/// How the client is run.
#[derive(Clone, Debug)]
struct Client {
    program: String,
    arguments: Vec<String>,
    /// Steps that may wait for it.
    queue: usize,
    /// How long its start, and its end, may take.
    patience: Duration,
}

impl Default for Client {
    fn default() -> Client {
        let arguments = vec!["-c".to_owned(), SCRIPT.to_owned()];
        Client { program: PYTHON.to_owned(), arguments, queue: 1024, patience: Duration::from_secs(60) }
    }
}

/// A line that the client answers.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The client is there, in this version.
    Ready(String),
    /// The run has begun.
    Run { id: String, place: String },
    /// It ends.
    Error(String),
}

/// An open run.
#[derive(Debug)]
pub struct Wandb {
    child: Child,
    patience: Duration,
    dir: PathBuf,
    /// To the thread that writes; none when all is said.
    lines: Option<SyncSender<String>>,
    /// From the thread that reads.
    answers: Receiver<Answer>,
    /// The client's version.
    version: String,
    /// Steps that were not logged.
    dropped: u64,
}

/// Whether the client is there.
///
/// # Errors
/// When python3 cannot be run or cannot import it.
pub fn check() -> Result<(), WandbError> {
    Wandb::connect(&Client::default(), PathBuf::new()).map(drop)
}

impl Wandb {
    /// Begins a run; one whose folder knows its id goes on.
    ///
    /// # Errors
    /// As [`check`].
    pub fn start(run: &WandbRun) -> Result<Wandb, WandbError> {
        Wandb::start_with(&Client::default(), run)
    }

    fn start_with(client: &Client, run: &WandbRun) -> Result<Wandb, WandbError> {
        let mut wandb = Wandb::connect(client, run.dir.clone())?;
        let id = read_text(&run.dir.join(WANDB_ID_FILE), SETTINGS_BYTES_MAX).ok();
        let id = id.map(|id| id.trim().to_owned());
        wandb.send(json!({ "name": run.name, "dir": run.dir, "config": run.config, "id": id }));
        Ok(wandb)
    }

    /// Starts the client and waits until it is there.
    fn connect(client: &Client, dir: PathBuf) -> Result<Wandb, WandbError> {
        // Ctrl-C is for the run, which ends the client in order.
        let spawned = Command::new(&client.program)
            .args(&client.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let python = || client.program.clone();
        let mut child = spawned.map_err(|source| WandbError::Python { python: python(), source })?;
        let (lines, to_write) = sync_channel::<String>(client.queue);
        let (tell, answers) = channel();
        if let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
            thread::spawn(move || to_write.iter().try_for_each(|line| writeln!(stdin, "{line}")));
            thread::spawn(move || {
                let read = BufReader::new(stdout).lines().map_while(Result::ok);
                read.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|answer| tell.send(answer))
            });
        }
        let mut wandb = Wandb {
            child,
            patience: client.patience,
            dir,
            lines: Some(lines),
            answers,
            version: String::new(),
            dropped: 0,
        };
        let reason = match wandb.answers.recv_timeout(client.patience) {
            Ok(Answer::Ready(version)) => {
                wandb.version = version;
                return Ok(wandb);
            }
            Ok(Answer::Error(reason)) => reason,
            Ok(Answer::Run { .. }) | Err(_) => "it says nothing".to_owned(),
        };
        Err(WandbError::Import { python: python(), reason })
    }

    /// Logs a step's numbers, those that are finite. Never waits.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) {
        let finite = values.iter().filter(|(_, value)| value.is_finite());
        let values: Map<String, Value> = finite.map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        self.send(json!({ "step": step, "values": values }));
    }

    fn send(&mut self, line: Value) {
        let is_sent = self.lines.as_ref().is_some_and(|lines| lines.try_send(line.to_string()).is_ok());
        self.dropped += u64::from(!is_sent);
    }

    /// What is to be said since the last call: where the run is seen, what went wrong.
    pub fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        while let Ok(answer) = self.answers.try_recv() {
            match answer {
                Answer::Ready(_) => {}
                Answer::Run { id, place } => {
                    news.push(format!("Weights & Biases {}: {place}", self.version));
                    if let Err(error) = replace(&self.dir.join(WANDB_ID_FILE), format!("{id}\n").as_bytes()) {
                        news.push(format!("warning: {WANDB_ID_FILE} cannot be written: {error}"));
                    }
                }
                Answer::Error(reason) => news.push(format!(
                    "warning: Weights & Biases gets no more metrics: {reason}; they are in metrics.jsonl as ever"
                )),
            }
        }
        news
    }

    /// Steps that were dropped so far, because the client was behind or had ended.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Lets the client write what it has, and ends it where that takes too long.
impl Drop for Wandb {
    fn drop(&mut self) {
        self.lines = None;
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > self.patience {
                eprintln!(
                    "warning: the client of Weights & Biases took longer than {} s to end and was stopped; `wandb sync` uploads what it wrote",
                    self.patience.as_secs()
                );
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.news().iter().for_each(|line| eprintln!("{line}"));
        if self.dropped > 0 {
            eprintln!(
                "warning: Weights & Biases did not get the metrics of {} lines; metrics.jsonl has them",
                self.dropped
            );
        }
    }
}

/// Forgets which run a folder was.
pub fn forget(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(dir.join(WANDB_ID_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that is a shell script.
    fn client(script: &str) -> Client {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Client { program: "sh".to_owned(), arguments, queue: 4, patience: Duration::from_millis(300) }
    }

    #[test]
    fn a_client_that_takes_nothing_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let run = WandbRun { dir: folder.path().to_owned(), ..WandbRun::default() };
        // It reads nothing, so that the pipe fills: 64 KiB, and then the queue.
        let mut wandb = Wandb::start_with(&client("echo '{\"ready\": \"1\"}'; exec sleep 100"), &run).unwrap();
        let name = "x".repeat(1000);
        let began = Instant::now();
        for step in 0..1000 {
            wandb.log(step, &[(&name, 1.0)]);
        }
        assert!(wandb.dropped() > 0 && wandb.dropped() < 1000, "{}", wandb.dropped());
        drop(wandb);
        assert!(began.elapsed() < Duration::from_secs(20), "it is stopped when its patience is over");
    }

    #[test]
    fn a_client_that_ends_is_told_of_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let run = WandbRun { dir: folder.path().to_owned(), ..WandbRun::default() };
        let script = "echo '{\"ready\": \"1\"}'; echo '{\"run\": {\"id\": \"a1\", \"place\": \"there\"}}'; echo '{\"error\": \"no key\"}'";
        let mut wandb = Wandb::start_with(&client(script), &run).unwrap();
        wandb.child.wait().unwrap();
        let began = Instant::now();
        let mut news = Vec::new();
        while wandb.dropped() == 0 && began.elapsed() < Duration::from_secs(20) {
            wandb.log(1, &[("loss", 0.5)]);
            news.extend(wandb.news());
            thread::sleep(Duration::from_millis(10));
        }
        assert!(wandb.dropped() > 0);
        assert_eq!(news[0], "Weights & Biases 1: there");
        assert!(news[1].contains("no key") && news[1].contains("metrics.jsonl"), "{news:?}");
        assert_eq!(std::fs::read_to_string(folder.path().join(WANDB_ID_FILE)).unwrap(), "a1\n");
        drop(wandb);
        forget(folder.path()).unwrap();
        forget(folder.path()).unwrap();
        assert!(!folder.path().join(WANDB_ID_FILE).exists());
    }

    #[test]
    fn what_cannot_be_imported_or_run_is_named() {
        let connect = |client: Client| Wandb::connect(&client, PathBuf::new()).map(drop).unwrap_err().to_string();
        let found = connect(client("echo '{\"error\": \"ModuleNotFoundError: nothing\"}'"));
        assert!(
            found.contains(
                "sh cannot import it: ModuleNotFoundError: nothing; install it there (sh -m pip install wandb)"
            ),
            "{found}"
        );
        assert!(connect(client("exit 3")).contains("it says nothing"));
        let found = connect(Client { program: "no-such-python".to_owned(), ..Client::default() });
        assert!(found.contains("no-such-python cannot be run"), "{found}");
    }
}
