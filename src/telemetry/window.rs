//! Metrics of several steps as one: what a line of metrics says of the steps since the line before.

use serde::{Deserialize, Serialize};

/// How the values of several steps become one. A value that is not finite was not measured: it counts in none of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The mean over the steps that measured it.
    Mean,
    /// The mean over all steps; a step that does not name it has 0.
    Count,
    /// The least value of the steps that measured it.
    Min,
    /// The greatest value of the steps that measured it.
    Max,
    /// The last: of running totals and settings.
    Last,
}

/// A named value of one step.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    name: String,
    value: f64,
    rule: Aggregation,
}

impl Metric {
    /// A value, and how it is taken together with those of other steps.
    pub fn new(name: impl Into<String>, value: f64, rule: Aggregation) -> Metric {
        Metric { name: name.into(), value, rule }
    }

    /// A value that is averaged.
    pub fn mean(name: impl Into<String>, value: f64) -> Metric {
        Metric::new(name, value, Aggregation::Mean)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value in this step.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// A number of things.
    pub fn count(name: impl Into<String>, value: usize) -> Metric {
        Metric::new(name, value as f64, Aggregation::Count)
    }
}

/// The steps since the last line of metrics. It is saved with a checkpoint, so that a resumed run goes on in the midst of it.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
pub struct Window {
    steps: u64,
    entries: Vec<Entry>,
}

/// A metric of a window.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
struct Entry {
    name: String,
    rule: Aggregation,
    /// Sum, extreme or last value of the steps that measured it.
    value: f64,
    measured: u64,
}

impl Window {
    /// Whether a window that was read can be one of a run of so many steps.
    pub fn fits(&self, steps: u64) -> bool {
        self.steps <= steps && self.entries.iter().all(|entry| entry.measured <= self.steps)
    }

    /// Takes in one step.
    pub fn add_step(&mut self, metrics: Vec<Metric>) {
        self.steps += 1;
        for Metric { name, value, rule } in metrics {
            let known = self.entries.iter().position(|entry| entry.name == name);
            let place = known.unwrap_or(self.entries.len());
            if known.is_none() {
                self.entries.push(Entry { name, rule, value: 0.0, measured: 0 });
            }
            self.entries[place].add(value);
        }
    }

    /// Each metric over all steps, in the order of their first coming; NaN where no step measured it.
    pub fn averages(&self) -> Averages {
        Averages(self.entries.iter().map(|entry| (entry.name.clone(), entry.average(self.steps))).collect())
    }
}

impl Entry {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.value = match self.rule {
            _ if self.measured == 0 => value,
            Aggregation::Mean | Aggregation::Count => self.value + value,
            Aggregation::Min => self.value.min(value),
            Aggregation::Max => self.value.max(value),
            Aggregation::Last => value,
        };
        self.measured += 1;
    }

    fn average(&self, steps: u64) -> f64 {
        match self.rule {
            Aggregation::Count => self.value / steps as f64,
            _ if self.measured == 0 => f64::NAN,
            Aggregation::Mean => self.value / self.measured as f64,
            Aggregation::Min | Aggregation::Max | Aggregation::Last => self.value,
        }
    }
}

/// Names and values of a window.
#[derive(Clone, PartialEq, Debug)]
pub struct Averages(Vec<(String, f64)>);

impl Averages {
    /// The value of a name; NaN where there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, value)| *value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(loss: f64, ends: &[(&str, usize)], rate: f64) -> Vec<Metric> {
        let mut metrics = vec![Metric::mean("loss", loss), Metric::new("rate", rate, Aggregation::Last)];
        metrics.push(Metric::new("longest", rate, Aggregation::Max));
        metrics.push(Metric::new("shortest", rate, Aggregation::Min));
        metrics.extend(ends.iter().map(|(name, count)| Metric::count(*name, *count)));
        metrics
    }

    #[test]
    fn a_window_averages_what_was_measured_and_counts_what_was_not_named_as_none() {
        let mut window = Window::default();
        window.add_step(step(1.0, &[("end", 4)], 0.1));
        window.add_step(step(f64::NAN, &[], 0.3));
        window.add_step(step(4.0, &[("end", 2), ("other", 3)], 0.2));
        let averages = window.averages();
        let found = ["loss", "end", "other", "rate", "longest", "shortest"].map(|name| averages.get(name));
        assert_eq!(found, [2.5, 2.0, 1.0, 0.2, 0.3, 0.1]);
        assert!(averages.get("none").is_nan());
    }

    #[test]
    fn what_no_step_measured_is_not_a_number_and_a_saved_window_goes_on_alike() {
        let mut window = Window::default();
        window.add_step(step(f64::NAN, &[], f64::INFINITY));
        assert!(window.averages().get("loss").is_nan() && window.averages().get("rate").is_nan());
        let mut saved: Window = serde_json::from_str(&serde_json::to_string(&window).unwrap()).unwrap();
        for window in [&mut window, &mut saved] {
            window.add_step(step(0.1, &[("end", 1)], 0.7));
        }
        assert_eq!(saved, window);
        assert_eq!((saved.averages().get("loss"), saved.averages().get("end")), (0.1, 0.5));
    }
}
