//! The memory report: a table of what lies where, shown after a run's first step. Rollouts and updates touch the same weights, which is to be
//! seen in their addresses.

use std::fmt::Write as _;
use std::ops::Range;

use super::Session;
use super::learner::Learner;
use crate::model::parameters::{Parameters, Weights};
use crate::ops::{Backend, Tensor};
use crate::telemetry::memory::{peak_resident_bytes, readable_bytes};

/// What a step's two halves do with some memory.
type Uses = [&'static str; 2];

/// A row of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
struct MemoryRow {
    name: &'static str,
    addresses: Range<u64>,
    bytes: u64,
    uses: Uses,
}

/// The table, filled while the first step goes on.
#[derive(Clone, Default, Debug)]
pub struct MemoryReport {
    rows: Vec<MemoryRow>,
    /// Where the parameters lay in the rollout.
    weights: Vec<Range<u64>>,
}

impl MemoryReport {
    /// Notes what is there when sequences have been sampled.
    pub fn note_rollout(&mut self, learner: &Learner, reference: Option<&Weights>, pages: &[Tensor]) {
        let backend = &*learner.model().backend;
        self.rows.clear();
        self.weights = addresses(backend, learner.weights());
        self.add(backend, "keys and values", pages, ["read, written", "gone"]);
        self.note_reference(learner, reference);
    }

    /// Notes the weights that the loss is measured against, if there are any.
    pub fn note_reference(&mut self, learner: &Learner, reference: Option<&Weights>) {
        if let Some(reference) = reference {
            self.add(&*learner.model().backend, "reference", reference.values.iter(), ["", "read"]);
        }
    }

    /// Notes what is there when gradients have been added up.
    pub fn note_update(&mut self, learner: &Learner) {
        let backend = &*learner.model().backend;
        let moments = || learner.moments().iter().flatten();
        self.add(backend, "master remainders", moments().map(|of| &of.remainder), ["", "read, written"]);
        self.add(backend, "moments", moments().flat_map(|of| of.tensors()), ["", "read, written"]);
        let gradients = learner.gradients().into_iter().flat_map(Parameters::iter).flatten();
        self.add(backend, "gradients", gradients, ["gone", "read, written"]);
        let in_update = addresses(backend, learner.weights());
        let uses = match self.weights.is_empty() {
            true => ["", "read, written"],
            false => ["read", "read, written"],
        };
        assert!(
            self.weights.is_empty() || self.weights == in_update,
            "the weights were moved between rollout and update"
        );
        self.add(backend, "weights", learner.weights().values.iter(), uses);
    }

    fn add<'a>(
        &mut self,
        backend: &dyn Backend,
        name: &'static str,
        tensors: impl IntoIterator<Item = &'a Tensor>,
        uses: Uses,
    ) {
        let ranges: Vec<Range<u64>> = tensors.into_iter().map(|tensor| backend.addresses(tensor)).collect();
        let (first, last) = (ranges.iter().map(|range| range.start).min(), ranges.iter().map(|range| range.end).max());
        let (Some(first), Some(last)) = (first, last) else { return };
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        self.rows.push(MemoryRow { name, addresses: first..last, bytes, uses });
    }

    /// The table and the peak, a line each.
    pub fn table(&self, session: &Session) -> String {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| row.addresses.start);
        let mut text = format!("{:<20}{:>16}{:>16}{:>12}   {:<16}update\n", "memory", "from", "to", "size", "rollout");
        for MemoryRow { name, addresses, bytes, uses: [rollout, update] } in rows {
            let Range { start, end } = addresses;
            let size = readable_bytes(bytes.into());
            let _ = writeln!(text, "{name:<20}{start:>16x}{end:>16x}{size:>12}   {rollout:<16}{update}");
        }
        text + &peak(session)
    }
}

/// What was held at most, beside what was planned and what NVML sees.
fn peak(session: &Session) -> String {
    let planned = readable_bytes(session.planned_bytes);
    match session.backend.memory() {
        Some(usage) => {
            let [peak, arena, beyond] =
                [usage.peak, usage.arena, usage.beyond].map(|bytes| readable_bytes(bytes.into()));
            let taken = session.gpu_sensors.as_ref().and_then(|gpu_sensors| gpu_sensors.memory_taken());
            let nvml = taken
                .map_or(String::new(), |taken| format!("; NVML sees {} of this run", readable_bytes(taken.into())));
            format!("most held at a time {peak}, planned {planned}, in an arena of {arena}, beyond it {beyond}{nvml}")
        }
        None => {
            let peak = peak_resident_bytes().map_or("unknown".to_owned(), |bytes| readable_bytes(bytes.into()));
            format!("most held at a time {peak} by the whole process, planned {planned} for the model")
        }
    }
}

fn addresses(backend: &dyn Backend, weights: &Weights) -> Vec<Range<u64>> {
    weights.values.iter().map(|parameter| backend.addresses(parameter)).collect()
}
