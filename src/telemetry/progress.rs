//! Progress on the terminal: a bar with rate and time left, or plain lines where there is no terminal.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The progress of something that is counted. Written to stderr.
#[derive(Debug)]
pub struct Progress {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Plain(Plain),
}

#[derive(Debug)]
struct Plain {
    what: String,
    unit: String,
    total: u64,
    /// Done before the clock started.
    start: Cell<u64>,
    done: Cell<u64>,
    began: Instant,
    said: Cell<Instant>,
}

impl Progress {
    /// `what` goes on, `total` units of it (`"train"`, `"steps"`, 300). On a terminal it is a bar; `NO_COLOR` takes its colour away.
    pub fn new(what: &str, unit: &str, total: u64) -> Progress {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let form = if std::io::stderr().is_terminal() && !is_dumb {
            Form::Bar(bar(what, unit, total))
        } else {
            let now = Instant::now();
            Form::Plain(Plain {
                what: what.to_owned(),
                unit: unit.to_owned(),
                total,
                start: Cell::new(0),
                done: Cell::new(0),
                began: now,
                said: Cell::new(now),
            })
        };
        Progress { form }
    }

    /// Counts `units` more; a resumed run counts what was done before first, with [`Progress::start_at`].
    pub fn advance(&self, units: u64) {
        match &self.form {
            Form::Bar(bar) => bar.inc(units),
            Form::Plain(plain) => plain.advance(units),
        }
    }

    /// Begins at `units`, which do not count towards the rate.
    pub fn start_at(&self, units: u64) {
        match &self.form {
            Form::Bar(bar) => {
                bar.set_position(units);
                bar.reset_eta();
            }
            Form::Plain(plain) => {
                plain.start.set(units);
                plain.done.set(units);
            }
        }
    }

    /// Shows `message` behind the bar; without a terminal nothing, as lines say it.
    pub fn set_message(&self, message: &str) {
        if let Form::Bar(bar) = &self.form {
            bar.set_message(message.to_owned());
        }
    }

    /// Prints a line to stdout above the bar.
    pub fn say(&self, line: &str) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(|| println!("{line}")),
            Form::Plain(_) => println!("{line}"),
        }
    }

    /// Takes the bar away; without a terminal, one last line.
    pub fn finish(self) {
        match self.form {
            Form::Bar(bar) => bar.finish_and_clear(),
            Form::Plain(plain) => eprintln!("{}", plain.line()),
        }
    }
}

fn bar(what: &str, unit: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_prefix(what.to_owned());
    let shape = if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { "30" } else { "30.green/dim" };
    let template = format!("{{prefix}} {{bar:{shape}}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left  {{msg}}");
    // A template that does not parse is the default's problem only.
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

impl Plain {
    fn advance(&self, units: u64) {
        self.done.set(self.done.get() + units);
        if self.said.get().elapsed() >= PLAIN_INTERVAL {
            self.said.set(Instant::now());
            eprintln!("{}", self.line());
        }
    }

    fn line(&self) -> String {
        let (done, seconds) = (self.done.get(), self.began.elapsed().as_secs_f64());
        let rate = (done - self.start.get()) as f64 / seconds.max(1e-9);
        let left = if rate > 0.0 { self.total.saturating_sub(done) as f64 / rate } else { 0.0 };
        let Plain { what, total, unit, .. } = self;
        format!("{what}: {done}/{total} {unit} in {seconds:.1} s, {rate:.2} {unit}/s, {left:.0} s left")
    }
}
