//! Memory that is cut from a pool, and graphs of launches that are captured once and repeated.

use half::bf16;

use super::calls::shown;
use super::check::{Check, Fault, Subject};
use super::values::Values;
use crate::ops::{Backend, Dtype, Host, HostMut, Tensor};

/// Takings and givings back.
const TURNS: usize = 400;
/// Tensors held at once, at most.
const HELD_MAX: usize = 24;

/// The checks of pools, and of graphs where the device captures any.
pub fn checks(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![
        Check::new("memory", format!("{TURNS} tensors, each with memory of its own"), |subject| {
            tensors_keep_their_values(&*subject.backend)
        }),
        Check::new("memory", format!("{TURNS} tensors from a pool"), |subject| {
            tensors_keep_their_values(&*subject.pooled)
        }),
    ];
    let backend = &*subject.backend;
    let x = backend.zeros(&[1, 16], Dtype::Activation);
    if backend.capture(&mut || backend.duplicate(&x)).is_some() {
        checks.push(Check::new(
            "graph",
            "[64, 96] through a product, a norm and a sum, 3 times".to_owned(),
            |subject| graphs_repeat(&*subject.backend).and_then(|()| graphs_repeat(&*subject.pooled)),
        ));
    }
    checks
}

/// What a tensor holds after others came and went.
fn tensors_keep_their_values(backend: &dyn Backend) -> Result<(), Fault> {
    let held_before = backend.memory().map(|memory| memory.held);
    let mut random = Values::new(40);
    let mut held: Vec<(Tensor, Vec<bf16>)> = Vec::new();
    for turn in 0..TURNS {
        let count = [1, 255, 256, 257, 5000, 40_000][random.below(6)];
        let values = random.normals(count);
        held.push((backend.upload(Host::Bf16(&values), &[count], Dtype::Bf16), values));
        while held.len() > HELD_MAX || (turn + 1 == TURNS && !held.is_empty()) {
            let (tensor, values) = held.swap_remove(random.below(held.len()));
            let mut found = vec![bf16::ZERO; values.len()];
            backend.download(&backend.duplicate(&tensor), HostMut::Bf16(&mut found));
            if let Some(at) = (0..values.len()).find(|at| found[*at].to_bits() != values[*at].to_bits()) {
                let place = format!("element {at} of {} after {turn} others", values.len());
                let (expected, got) = (values[at].to_string(), shown(found[at].to_f64()));
                return Err(Fault::Value { kernel: "memory".to_owned(), place, expected, got });
            }
        }
    }
    let held_now = backend.memory().map(|memory| memory.held);
    if held_now != held_before {
        let (kernel, place) = ("memory".to_owned(), "bytes held when all is given back".to_owned());
        let (expected, got) = (format!("{held_before:?}"), format!("{held_now:?}"));
        return Err(Fault::Value { kernel, place, expected, got });
    }
    Ok(())
}

/// A captured graph gives, with new values each time, the bits of the same ops called one by one.
fn graphs_repeat(backend: &dyn Backend) -> Result<(), Fault> {
    const ROWS: usize = 64;
    const DIM: usize = 96;
    let mut random = Values::new(41);
    let (w, scale) = (random.matrix(backend, [DIM, DIM]), random.vector(backend, DIM));
    let mut x = random.activation(backend, &[ROWS, DIM]);
    let layer = |x: &Tensor| {
        let y = backend.linear_forward(x, &w, None);
        let mut sum = backend.rms_norm_forward(&y, Some(x), &scale, 1e-6).y;
        backend.add(&mut sum, x);
        let mut zeros = backend.zeros(sum.shape(), Dtype::Activation);
        backend.add(&mut zeros, &backend.duplicate(&sum));
        zeros
    };
    let Some(graph) = backend.capture(&mut || layer(&x)) else { return Ok(()) };
    for repeat in 0..3 {
        let values = random.normals(ROWS * DIM);
        backend.overwrite(&mut x, Host::Bf16(&values));
        let found = backend.to_f32(&graph.replay());
        let expected = backend.to_f32(&layer(&x));
        if let Some(at) = (0..found.len()).find(|at| found[*at].to_bits() != expected[*at].to_bits()) {
            let place = format!("element {at} of {}, repeat {repeat}", found.len());
            let (expected, got) = (expected[at].to_string(), shown(found[at].into()));
            return Err(Fault::Value { kernel: "graph".to_owned(), place, expected, got });
        }
    }
    Ok(())
}
