//! Calls of ops on a device, their results beside those of the definition, and the kernel behind each.

use super::check::{Check, Fault, Launched, Subject, TakeLaunches};
use super::tolerance::tolerance;
use crate::ops::{Backend, Dtype, HostMut, Tensor};

/// Memory that a recorded device hands out has these bits as f32, of bf16 or of f32 elements.
const UNWRITTEN: [u32; 2] = [0xFFFF_0000, u32::MAX];

/// How close a result has to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Within {
    /// [`tolerance`] of a chain, relative to the largest of the tensor.
    Chain(Dtype, usize),
    /// So much.
    Absolute(f64),
    /// The same number.
    Exact,
}

/// Calls on one backend, and what they gave.
pub struct Calls<'a> {
    /// Where the ops run.
    pub backend: &'a dyn Backend,
    launches: Option<&'a TakeLaunches>,
    /// The op that was called last, and what it launched.
    op: &'static str,
    latest: Vec<Launched>,
    results: Vec<CallResult>,
}

struct CallResult {
    name: &'static str,
    kernel: String,
    shape: Vec<usize>,
    values: Vec<f64>,
    within: Within,
}

impl<'a> Calls<'a> {
    /// On a backend, of which `launches` tells what it launches.
    pub fn new(backend: &'a dyn Backend, launches: Option<&'a TakeLaunches>) -> Calls<'a> {
        Calls { backend, launches, op: "", latest: Vec::new(), results: Vec::new() }
    }

    /// Calls an op.
    pub fn call<T>(&mut self, op: &'static str, work: impl FnOnce(&dyn Backend) -> T) -> T {
        let take = || self.launches.map_or_else(Vec::new, |take| take());
        take();
        let result = work(self.backend);
        (self.op, self.latest) = (op, take());
        result
    }

    /// A result of the last call, activations or f32, with the length of its longest sum.
    pub fn out(&mut self, name: &'static str, tensor: &Tensor, chain: usize) {
        let values = values(self.backend, tensor);
        self.push(name, tensor, values, Within::Chain(tensor.dtype(), chain));
    }

    /// A result of the last call that was read from `tensor`, whatever it is.
    pub fn push(&mut self, name: &'static str, tensor: &Tensor, values: Vec<f64>, within: Within) {
        let shape = if values.len() == tensor.len() { tensor.shape().to_vec() } else { vec![values.len()] };
        let kernel = self.kernel_of(tensor);
        self.results.push(CallResult { name, kernel, shape, values, within });
    }

    /// The kernels that the last call gave a tensor's memory to.
    pub fn kernel_of(&self, tensor: &Tensor) -> String {
        let own = self.backend.addresses(tensor);
        let is_own = |launched: &&Launched| launched.memory.iter().any(|at| at.start < own.end && own.start < at.end);
        let mut names: Vec<&str> = Vec::new();
        for launched in self.latest.iter().filter(is_own) {
            if !names.contains(&launched.kernel.as_str()) {
                names.push(&launched.kernel);
            }
        }
        match (names.is_empty(), self.latest.last()) {
            (false, _) => names.join(" or "),
            (true, Some(last)) => last.kernel.clone(),
            (true, None) => self.op.to_owned(),
        }
    }
}

/// Results of `work` on the subject against those on `definition`; the first that is too far away.
pub fn agree(subject: &Subject, definition: &dyn Backend, work: impl Fn(&mut Calls<'_>)) -> Result<(), Fault> {
    let mut expected = Calls::new(definition, None);
    work(&mut expected);
    let mut found = Calls::new(&*subject.backend, subject.launches.as_ref());
    work(&mut found);
    assert_eq!(found.results.len(), expected.results.len());
    found.results.iter().zip(&expected.results).try_for_each(|(found, expected)| compare(subject, found, expected))
}

fn compare(subject: &Subject, found: &CallResult, expected: &CallResult) -> Result<(), Fault> {
    let scale = expected.values.iter().filter(|x| x.is_finite()).fold(1.0f64, |largest, x| largest.max(x.abs()));
    let allowed = match found.within {
        Within::Chain(dtype, chain) => scale * tolerance(subject.backend.name(), dtype, chain),
        Within::Absolute(error) => error,
        Within::Exact => 0.0,
    };
    assert_eq!(found.values.len(), expected.values.len(), "{}: {:?}", found.name, found.shape);
    let is_close = |(found, expected): (&f64, &f64)| found == expected || (found - expected).abs() <= allowed;
    let Some(at) = found.values.iter().zip(&expected.values).position(|pair| !is_close(pair)) else { return Ok(()) };
    Err(Fault::Value {
        kernel: found.kernel.clone(),
        place: format!("{}{:?}", found.name, place(at, &found.shape)),
        expected: match found.within {
            Within::Exact => expected.values[at].to_string(),
            _ => format!("{} ± {allowed:.1e}", expected.values[at]),
        },
        got: shown(found.values[at]),
    })
}

/// A value that was found; one that the memory had before is named so.
pub fn shown(value: f64) -> String {
    let is_unwritten = value.is_nan() && UNWRITTEN.contains(&(value as f32).to_bits());
    if is_unwritten { "NaN, which nothing has written over".to_owned() } else { value.to_string() }
}

/// The indices of element `at` of a shape.
pub fn place(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut indices: Vec<usize> = Vec::with_capacity(shape.len());
    for size in shape.iter().rev() {
        indices.push(at % size.max(&1));
        at /= size.max(&1);
    }
    indices.reverse();
    indices
}

/// A tensor's values as they are.
pub fn values(backend: &dyn Backend, tensor: &Tensor) -> Vec<f64> {
    if backend.name() == "reference" {
        let mut values = vec![0.0; tensor.len()];
        backend.download(tensor, HostMut::F64(&mut values));
        return values;
    }
    backend.to_f32(tensor).into_iter().map(f64::from).collect()
}

/// The body of a check of an op.
pub type Work = Box<dyn Fn(&mut Calls<'_>) + Send + Sync>;
/// [`small`] or [`real`].
pub type Against = fn(&'static str, String, Work) -> Check;

/// A check of an op's results against the reference.
pub fn small(name: &'static str, shape: String, work: impl Fn(&mut Calls<'_>) + Send + Sync + 'static) -> Check {
    Check::new(name, shape, move |subject| agree(subject, &*subject.reference, &work))
}

/// A check of an op's results against the CPU, at a size that the reference is too slow for.
pub fn real(name: &'static str, shape: String, work: impl Fn(&mut Calls<'_>) + Send + Sync + 'static) -> Check {
    Check::new(name, shape, move |subject| agree(subject, &*subject.cpu, &work))
}
