//! What is checked, how, and what came of it.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use half::bf16;

use crate::ops::Backend;

/// A launch: the kernel, and the addresses that it was given.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The kernel's name.
    pub kernel: String,
    /// What its pointers and tables lead to.
    pub memory: Vec<Range<u64>>,
}

/// Gives the launches since the last call, in order.
pub type TakeLaunches = Box<dyn Fn() -> Vec<Launched> + Send + Sync>;

/// `Σ a[k] b[k]` as a device's tensor cores round it.
pub type Product = Box<dyn Fn(&[bf16], &[bf16]) -> f32 + Send + Sync>;

/// The shapes that are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// Those that tiles, vectors and chunks make special: for a device that is slow.
    Small,
    /// Also those of the models that the program is made for.
    Real,
}

/// The device that is checked, and what it is held against.
pub struct Subject {
    /// The device. Where it can, it gives each new tensor memory full of NaN.
    pub backend: Arc<dyn Backend>,
    /// The same, its memory cut from one piece.
    pub pooled: Arc<dyn Backend>,
    /// The definition, where it is quick enough.
    pub reference: Arc<dyn Backend>,
    /// The definition elsewhere.
    pub cpu: Arc<dyn Backend>,
    /// The published model of its tensor cores, where there is one.
    pub product: Option<Product>,
    /// What it launches, where it has kernels.
    pub launches: Option<TakeLaunches>,
    /// The shapes that are tried.
    pub sizes: Sizes,
}

/// Something that a device must do.
pub struct Check {
    /// The op, or what else is tried.
    pub name: &'static str,
    /// Its sizes.
    pub shape: String,
    run: Run,
}

/// The body of a check.
type Run = Box<dyn Fn(&Subject) -> Result<(), Fault> + Send + Sync>;

/// What is wrong.
#[derive(Clone, PartialEq, Debug)]
pub enum Fault {
    /// A value is another one than it should be.
    Value {
        /// The kernel that had its memory.
        kernel: String,
        /// Which value it is.
        place: String,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The check did not come to its end.
    Stopped {
        /// The kernel that was launched last.
        kernel: String,
        /// What was said.
        message: String,
    },
}

/// How the line of a check begins whose device is wrong.
pub const FAILED: &str = "FAILED";

/// What came of a check.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// As in [`Check`].
    pub name: &'static str,
    /// As in [`Check`].
    pub shape: String,
    /// How long it took.
    pub seconds: f64,
    /// None where the device is right.
    pub fault: Option<Fault>,
}

impl Check {
    /// A check of `name` at `shape`.
    pub fn new(
        name: &'static str,
        shape: String,
        run: impl Fn(&Subject) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Check {
        Check { name, shape, run: Box::new(run) }
    }

    /// Does it. A panic, as of a device that stops, is a fault.
    pub fn run(&self, subject: &Subject) -> Outcome {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (self.run)(subject)));
        let fault = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let message = text.unwrap_or("something failed without a word").to_owned();
            let last = subject.launches.as_ref().and_then(|take| Some(take().pop()?.kernel));
            Err(Fault::Stopped { kernel: last.unwrap_or_else(|| self.name.to_owned()), message })
        });
        let seconds = began.elapsed().as_secs_f64();
        Outcome { name: self.name, shape: self.shape.clone(), seconds, fault: fault.err() }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Outcome { name, shape, seconds, fault } = self;
        match fault {
            None => write!(f, "ok      {name:<20} {shape:<60} {:>7.0} ms", 1e3 * seconds),
            Some(Fault::Value { kernel, place, expected, got }) => {
                write!(f, "{FAILED}  {kernel:<20} {shape}: {place}: expected {expected}, got {got}")
            }
            Some(Fault::Stopped { kernel, message }) => {
                write!(f, "{FAILED}  {kernel:<20} {shape}: it stopped: {message}")
            }
        }
    }
}
