//! What a step costs: a line through measured steps, by least squares.

use thyme_engine::engine::scheduler::Chunk;

/// What a step consists of: 1, prompt and observation tokens, sequences that decode, keys that are attended to.
pub type Composition = [f64; 4];

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
    let mut parts = [1.0, 0.0, 0.0, 0.0];
    for chunk in chunks {
        let (from, to) = (chunk.tokens.start as f64, chunk.tokens.end as f64);
        match chunk.draws && chunk.tokens.len() == 1 {
            true => parts[2] += 1.0,
            false => parts[1] += to - from,
        }
        // Token number p attends to p + 1 keys.
        parts[3] += (to * (to + 1.0) - from * (from + 1.0)) / 2.0;
    }
    parts
}

impl Cost {
    pub fn seconds(&self, parts: &Composition) -> f64 {
        self.0.iter().zip(parts).map(|(each, count)| each * count).sum()
    }

    /// The line that misses the steps by the least mean square.
    pub fn fit(steps: &[Measured]) -> Fit {
        // Normal equations, each unknown in units of its own mean, so that none drowns.
        let mean = |value: &dyn Fn(&Measured) -> f64| steps.iter().map(value).sum::<f64>() / steps.len() as f64;
        let scale: [f64; 4] = std::array::from_fn(|i| mean(&|step| step.composition[i]).max(f64::MIN_POSITIVE));
        let mut rows = [[0.0; 5]; 4];
        for step in steps {
            let parts: [f64; 4] = std::array::from_fn(|i| step.composition[i] / scale[i]);
            for (row, part) in rows.iter_mut().zip(parts) {
                for (sum, other) in row.iter_mut().zip(parts) {
                    *sum += part * other;
                }
                row[4] += part * step.seconds;
            }
        }
        let solved = solve(rows);
        let cost = Cost(std::array::from_fn(|i| solved[i] / scale[i]));
        let average = mean(&|step| step.seconds);
        let missed = mean(&|step| (step.seconds - cost.seconds(&step.composition)).powi(2));
        let variance = mean(&|step| (step.seconds - average).powi(2));
        Fit { cost, residual: missed.sqrt() / average, explained: 1.0 - missed / variance }
    }
}

/// Solves four equations by elimination, each row its coefficients and its right side.
fn solve(mut rows: [[f64; 5]; 4]) -> [f64; 4] {
    for pivot in 0..4 {
        let largest = (pivot..4).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs())).unwrap();
        rows.swap(pivot, largest);
        for other in (0..4).filter(|&other| other != pivot) {
            let factor = rows[other][pivot] / rows[pivot][pivot];
            let row = rows[pivot];
            rows[other].iter_mut().zip(row).for_each(|(value, above)| *value -= factor * above);
        }
    }
    std::array::from_fn(|i| rows[i][4] / rows[i][i])
}
