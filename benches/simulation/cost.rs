//! What a step costs: a line through measured steps, by least squares.

use thyme_engine::engine::scheduler::Chunk;

/// Weights are found in so many rounds; more change nothing that shows.
const ROUNDS: usize = 4;
/// No step is shorter, whatever a line says, in seconds.
const SHORTEST: f64 = 1e-5;

/// Parts of a step's cost.
pub const PARTS: usize = 6;

/// What a step consists of: 1, prompts and observations, their tokens, keys that these attend to, sequences that decode, keys that these
/// attend to.
pub type Composition = [f64; PARTS];

/// A step that was measured.
#[derive(Clone, Copy)]
pub struct Measured {
    pub composition: Composition,
    pub seconds: f64,
}

/// Seconds for each part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Cost(pub Composition);

/// How well a line goes through the steps that it was drawn through.
pub struct Fit {
    pub cost: Cost,
    /// Root of the mean square of what it misses, over the mean of a step.
    pub residual: f64,
    /// Share of the variance that it explains.
    pub explained: f64,
}

pub fn composition(chunks: &[Chunk]) -> Composition {
    let mut parts = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for chunk in chunks {
        let (from, to) = (chunk.tokens.start as f64, chunk.tokens.end as f64);
        let first = if chunk.is_decoding() { 4 } else { 2 };
        parts[1] += f64::from(!chunk.is_decoding());
        parts[first] += to - from;
        // Token number p attends to p + 1 keys.
        parts[first + 1] += (to * (to + 1.0) - from * (from + 1.0)) / 2.0;
    }
    parts
}

impl Cost {
    pub fn seconds(&self, parts: &Composition) -> f64 {
        self.0.iter().zip(parts).map(|(each, count)| each * count).sum()
    }

    /// The line that misses the steps by the least mean square, where a step of twice the time may be missed by twice the square: whatever
    /// disturbs a machine disturbs a second as much as the next. By this the line takes as long for all steps as they took.
    pub fn fit(steps: &[Measured]) -> Fit {
        let mean = |value: &dyn Fn(&Measured) -> f64| steps.iter().map(value).sum::<f64>() / steps.len() as f64;
        let mut cost = Cost::fit_weighted(steps, |step| 1.0 / step.seconds);
        for _ in 0..ROUNDS {
            // A step in which nothing disturbs is not worth more than others: what counts is how long it should have taken.
            cost = Cost::fit_weighted(steps, |step| 1.0 / cost.seconds(&step.composition).max(SHORTEST));
        }
        let average = mean(&|step| step.seconds);
        let missed = mean(&|step| (step.seconds - cost.seconds(&step.composition)).powi(2));
        let variance = mean(&|step| (step.seconds - average).powi(2));
        Fit { cost, residual: missed.sqrt() / average, explained: 1.0 - missed / variance }
    }

    fn fit_weighted(steps: &[Measured], weight: impl Fn(&Measured) -> f64) -> Cost {
        // Normal equations, each unknown in units of its own mean, so that none drowns.
        let mean = |part: usize| steps.iter().map(|step| step.composition[part]).sum::<f64>() / steps.len() as f64;
        let scale: Composition = std::array::from_fn(|i| mean(i).max(f64::MIN_POSITIVE));
        let mut rows = [[0.0; PARTS + 1]; PARTS];
        for step in steps {
            let weight = weight(step);
            let parts: Composition = std::array::from_fn(|i| step.composition[i] / scale[i]);
            for (row, part) in rows.iter_mut().zip(parts) {
                for (sum, other) in row.iter_mut().zip(parts) {
                    *sum += weight * part * other;
                }
                row[PARTS] += weight * part * step.seconds;
            }
        }
        let solved = solve(rows);
        Cost(std::array::from_fn(|i| solved[i] / scale[i]))
    }
}

/// Solves equations by elimination, each row its coefficients and its right side.
fn solve(mut rows: [[f64; PARTS + 1]; PARTS]) -> Composition {
    for pivot in 0..PARTS {
        let largest = (pivot..PARTS).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs())).unwrap();
        rows.swap(pivot, largest);
        for other in (0..PARTS).filter(|&other| other != pivot) {
            let factor = rows[other][pivot] / rows[pivot][pivot];
            let row = rows[pivot];
            rows[other].iter_mut().zip(row).for_each(|(value, above)| *value -= factor * above);
        }
    }
    std::array::from_fn(|i| rows[i][PARTS] / rows[i][i])
}
