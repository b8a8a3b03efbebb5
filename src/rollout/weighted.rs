//! The rewards that a recipe chooses, each with its weights and its gate: which of them are scored, and which depend on which.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::judge::Judge;
use super::python_file::{is_python_file, static_name};
use super::registry::{self, Registry, RegistryError};
use super::reward::Reward;
use super::rewards::python_file::PythonFileReward;

/// The key of any reward's table that names its gate.
const GATE_KEY: &str = "gate";

/// Weights by reward name.
pub type Weights = BTreeMap<String, f64>;

/// What a recipe says of its rewards.
#[derive(Clone, Copy)]
pub struct RewardTables<'a> {
    /// Weights of rows of no other source.
    pub weights: &'a Weights,
    /// Weights by source.
    pub weights_by_source: &'a BTreeMap<String, Weights>,
    /// A table of keys for each reward that has some.
    pub tables: &'a BTreeMap<String, toml::Table>,
}

/// A reward that is scored.
pub struct Weighted {
    /// Its name in recipes and logs.
    pub name: &'static str,
    /// The reward.
    pub reward: Box<dyn Reward>,
    /// Its weight for rows of no other source.
    pub weight: f64,
    /// Its weight for rows of each source that has weights of its own.
    by_source: Weights,
    /// The reward without which this one is 0.
    pub gate: Option<&'static str>,
    /// Whether it is scored whatever its weight, although that may cost a judgement: it has keys of its own, or is a gate.
    pub is_wanted: bool,
}

impl Weighted {
    /// Its weight for a row of that source.
    pub fn weight_for(&self, source: Option<&str>) -> f64 {
        source.and_then(|source| self.by_source.get(source)).copied().unwrap_or(self.weight)
    }

    /// Whether the judge is asked about a row of that source.
    pub fn is_asked(&self, source: Option<&str>) -> bool {
        self.is_wanted || self.weight_for(source) != 0.0
    }

    fn has_weight(&self) -> bool {
        self.weight != 0.0 || self.by_source.values().any(|weight| *weight != 0.0)
    }
}

impl RewardTables<'_> {
    /// The rewards that are scored, in the order of reports. Nothing is asked of the judge.
    ///
    /// # Errors
    /// When a reward or a gate is unknown, a weight is not finite, a table does not read, gates go round in a circle, or a reward asks a judge
    /// that is not there.
    pub fn rewards(self, registry: &Registry, judge: Option<&Arc<dyn Judge>>) -> Result<Vec<Weighted>, RegistryError> {
        let known: Vec<&str> = registry.rewards().map(|entry| entry.name).collect();
        self.check_names(&known)?;
        let (mut rewards, mut figures) = (Vec::new(), Vec::new());
        for entry in registry.rewards() {
            let table = self.table(entry.name);
            let reward = (entry.build)(table, judge.cloned())?;
            rewards.push(self.weighted(entry.name, entry.default_weight, reward)?);
            figures.extend(entry.scored_without_weight.then_some(entry.name));
        }
        for name in self.tables.keys().filter(|name| !known.contains(&name.as_str())) {
            let unusable = |reason| RegistryError::Reward { name: name.clone(), reason };
            let (name, settings) = (static_name(name), registry::settings("reward", name, self.table(name))?);
            let reward = PythonFileReward::new(name, settings).map_err(unusable)?;
            rewards.push(self.weighted(name, 1.0, Box::new(reward))?);
        }
        self.set_gates(&mut rewards)?;
        self.keep_scored(&mut rewards, &figures);
        match rewards.iter().find(|weighted| judge.is_none() && weighted.reward.asks_judge()) {
            Some(Weighted { name, .. }) => {
                Err(RegistryError::Judge(format!("the reward {name:?} asks it, and it is not given")))
            }
            None => Ok(rewards),
        }
    }

    fn check_names(self, known: &[&str]) -> Result<(), RegistryError> {
        let by_source = self.weights_by_source.values().flat_map(BTreeMap::keys);
        for name in self.weights.keys().chain(by_source).chain(self.tables.keys()) {
            if !known.contains(&name.as_str()) && !is_python_file(self.tables.get(name)) {
                return Err(RegistryError::unknown("reward", name, known));
            }
        }
        Ok(())
    }

    /// A reward's own keys.
    fn table(self, name: &str) -> toml::Table {
        let mut table = self.tables.get(name).cloned().unwrap_or_default();
        table.remove(GATE_KEY);
        table
    }

    fn weighted(
        self,
        name: &'static str,
        default_weight: f64,
        reward: Box<dyn Reward>,
    ) -> Result<Weighted, RegistryError> {
        let weight = |weights: &Weights| match weights.get(name).copied().unwrap_or(default_weight) {
            weight if weight.is_finite() => Ok(weight),
            weight => Err(RegistryError::Weight { name: name.to_owned(), weight }),
        };
        let mut by_source = Weights::new();
        for (source, weights) in self.weights_by_source {
            by_source.insert(source.clone(), weight(weights)?);
        }
        let is_wanted = self.tables.contains_key(name);
        let weight = weight(self.weights)?;
        Ok(Weighted { name, weight, by_source, gate: reward.gate(), is_wanted, reward })
    }

    /// Gives the rewards the gates that the recipe names.
    fn set_gates(self, rewards: &mut [Weighted]) -> Result<(), RegistryError> {
        let names: Vec<&'static str> = rewards.iter().map(|weighted| weighted.name).collect();
        for weighted in &mut *rewards {
            let wrong = |reason| RegistryError::Reward { name: weighted.name.to_owned(), reason };
            let gate = match self.tables.get(weighted.name).and_then(|table| table.get(GATE_KEY)) {
                None => weighted.gate,
                Some(toml::Value::String(none)) if none.is_empty() => None,
                Some(toml::Value::String(gate)) => Some(gate.as_str()),
                Some(other) => {
                    let remedy = "give a reward's name in quotes, or \"\" for no gate";
                    return Err(wrong(format!("its gate is {other}; {remedy}")));
                }
            };
            let known = |gate: &str| names.iter().find(|name| **name == gate).copied();
            weighted.gate = match gate {
                Some(gate) => Some(known(gate).ok_or_else(|| RegistryError::unknown("reward", gate, &names))?),
                None => None,
            };
        }
        match rewards.iter().find(|weighted| depth(rewards, weighted) > rewards.len()) {
            Some(Weighted { name, .. }) => {
                let reason = "its gate depends on itself; name another one, or \"\" for none".to_owned();
                Err(RegistryError::Reward { name: (*name).to_owned(), reason })
            }
            None => Ok(()),
        }
    }

    /// Drops the rewards that nobody asks for: those without a weight that the recipe does not name, but for the figures, and but for gates.
    fn keep_scored(self, rewards: &mut Vec<Weighted>, figures: &[&str]) {
        let is_named = |name: &str| {
            let mut weights = self.weights_by_source.values().chain([self.weights]);
            weights.any(|weights| weights.contains_key(name)) || figures.contains(&name)
        };
        let is_scored = |weighted: &&Weighted| {
            let is_free = !weighted.reward.asks_judge();
            weighted.has_weight() || weighted.is_wanted || (is_free && is_named(weighted.name))
        };
        let mut scored: Vec<&'static str> = rewards.iter().filter(is_scored).map(|weighted| weighted.name).collect();
        let mut next = 0;
        while let Some(name) = scored.get(next) {
            next += 1;
            let gate = rewards.iter().find(|weighted| weighted.name == *name).and_then(|weighted| weighted.gate);
            if let Some(gate) = rewards.iter_mut().find(|weighted| Some(weighted.name) == gate) {
                gate.is_wanted = true;
                if !scored.contains(&gate.name) {
                    scored.push(gate.name);
                }
            }
        }
        rewards.retain(|weighted| scored.contains(&weighted.name));
    }
}

/// How many gates stand before a reward; more than there are rewards where they go round in a circle.
pub fn depth(rewards: &[Weighted], of: &Weighted) -> usize {
    let (mut depth, mut gate) = (0, of.gate);
    while let Some(name) = gate
        && depth <= rewards.len()
    {
        depth += 1;
        gate = rewards.iter().find(|weighted| weighted.name == name).and_then(|weighted| weighted.gate);
    }
    depth
}
