//! Selective sample replay (VL-Rethinker, Wang et al. 2025; Pixel Reasoner): rollouts of earlier steps that had an advantage fill a step that has few.
//!
//! A replayed rollout keeps the advantage that it had in its group, and the log-probabilities of the weights that sampled it. So its ratio tells how far
//! the policy has come since, and the clip takes tokens that went too far out of the loss. It counts in the divisor as a rollout of this step does.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::sample::{Sample, SampleImage};
use super::training_sample::TrainingSample;
use crate::checkpoint::CheckpointError;
use crate::files::json::read_json;
use crate::files::open::{read, replace};
use crate::ops::sample::philox_uniform;
use crate::prompt::{Grid, PreparedImage};

/// Added to the size of an advantage: the weight with which a rollout is drawn.
const WEIGHT_MIN: f64 = 1e-4;
/// The folder in a checkpoint, and the file in it that tells of the rollouts; pictures have files of their own.
const FOLDER: &str = "replay";
const ROLLOUTS_FILE: &str = "rollouts.json";
/// Most bytes of a file that is read.
const BYTES_MAX: u64 = 8 << 30;

/// The last rollouts with an advantage.
#[derive(Debug, Default)]
pub struct ReplayBuffer {
    rollouts: VecDeque<TrainingSample>,
    most: usize,
}

impl ReplayBuffer {
    /// An empty buffer for as many rollouts as a step has.
    pub fn new(most: usize) -> ReplayBuffer {
        ReplayBuffer { rollouts: VecDeque::new(), most }
    }

    /// Adds rollouts to the batch of a step until half as many as a step has can teach, drawn by the size of their advantages, each once. Then takes those
    /// of this step in. Returns how many were added.
    pub fn exchange(&mut self, batch: &mut Batch, seed: u64, step: u64) -> usize {
        let all = batch.mini_batches.iter().flat_map(|mini_batch| &mini_batch.rollouts);
        let fresh: Vec<TrainingSample> =
            all.filter(|rollout| rollout.has_advantage()).map(TrainingSample::kept).collect();
        let drawn = self.draw((self.most / 2).saturating_sub(fresh.len()), seed, step);
        for (number, &place) in drawn.iter().enumerate() {
            let parts = batch.mini_batches.len();
            batch.mini_batches[number % parts].push_replayed(self.rollouts[place].kept());
        }
        self.rollouts.extend(fresh);
        let surplus = self.rollouts.len().saturating_sub(self.most);
        self.rollouts.drain(..surplus);
        drawn.len()
    }

    /// Places of at most `count` rollouts, drawn without putting back (Efraimidis and Spirakis 2006).
    fn draw(&self, count: usize, seed: u64, step: u64) -> Vec<usize> {
        let key = |(place, rollout): (usize, &TrainingSample)| {
            let weight = rollout.advantage().abs() + WEIGHT_MIN;
            // The counter is none that tokens are sampled with.
            (philox_uniform(seed, u64::MAX - step, place as u64).ln() / weight, place)
        };
        let mut keys: Vec<(f64, usize)> = self.rollouts.iter().enumerate().map(key).collect();
        keys.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut places: Vec<usize> = keys.into_iter().take(count).map(|(_, place)| place).collect();
        places.sort_unstable();
        places
    }

    /// Writes the buffer into a checkpoint that is being written.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn write_to(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let folder = checkpoint.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(CheckpointError::file("create", &folder))?;
        let mut stored = Stored::default();
        for rollout in &self.rollouts {
            for image in &rollout.sample.images {
                let name = format!("{:032x}", image.prepared.digest);
                if stored.images.insert(name.clone(), StoredImage::of(&image.prepared)).is_none() {
                    let path = folder.join(&name);
                    replace(&path, &image.prepared.patches).map_err(CheckpointError::file("write", path))?;
                }
            }
            stored.rollouts.push(StoredRollout::of(rollout));
        }
        let path = folder.join(ROLLOUTS_FILE);
        let text = serde_json::to_string(&stored).expect("numbers serialise");
        replace(&path, text.as_bytes()).map_err(CheckpointError::file("write", path))
    }

    /// Reads what [`ReplayBuffer::write_to`] wrote.
    ///
    /// # Errors
    /// When a file is absent or damaged.
    pub fn load(most: usize, checkpoint: &Path) -> Result<ReplayBuffer, CheckpointError> {
        let folder = checkpoint.join(FOLDER);
        let path = folder.join(ROLLOUTS_FILE);
        let bytes = read(&path, BYTES_MAX).map_err(CheckpointError::file("read", &path))?;
        let damaged = |reason: String| CheckpointError::Damaged { path: path.clone(), reason };
        let Stored { images, rollouts } = read_json(&bytes).map_err(damaged)?;
        let mut pictures = BTreeMap::new();
        for (name, image) in images {
            let file = folder.join(&name);
            let patches = read(&file, BYTES_MAX).map_err(CheckpointError::file("read", &file))?;
            let digest =
                u128::from_str_radix(&name, 16).map_err(|error| damaged(format!("image {name:?}: {error}")))?;
            let prepared = image.prepared(patches, digest);
            pictures.insert(name.clone(), prepared.ok_or_else(|| damaged(format!("image {name} has another size")))?);
        }
        let rollout = |stored: StoredRollout| {
            stored.rollout(&pictures).ok_or_else(|| damaged("a rollout lacks parts".to_owned()))
        };
        Ok(ReplayBuffer { rollouts: rollouts.into_iter().map(rollout).collect::<Result<_, _>>()?, most })
    }
}

/// What `rollouts.json` holds. Floating-point numbers stand there as their bits.
#[derive(Default, Deserialize, Serialize)]
struct Stored {
    images: BTreeMap<String, StoredImage>,
    rollouts: Vec<StoredRollout>,
}

/// A picture but for its patches.
#[derive(Deserialize, Serialize)]
struct StoredImage {
    grid: [u32; 3],
    original: [u32; 2],
    resized: [usize; 2],
    bytes: usize,
}

impl StoredImage {
    fn of(image: &PreparedImage) -> StoredImage {
        StoredImage {
            grid: [image.grid.t, image.grid.h, image.grid.w],
            original: [image.original_width, image.original_height],
            resized: [image.resized_width, image.resized_height],
            bytes: image.patches.len(),
        }
    }

    fn prepared(&self, patches: Vec<u8>, digest: u128) -> Option<Arc<PreparedImage>> {
        let [t, h, w] = self.grid;
        let ([original_width, original_height], [resized_width, resized_height]) = (self.original, self.resized);
        let (is_whole, grid) = (patches.len() == self.bytes, Grid { t, h, w });
        let image =
            PreparedImage { patches, grid, original_width, original_height, resized_width, resized_height, digest };
        is_whole.then(|| Arc::new(image))
    }
}

/// A rollout; of each learned token its place, and beside it what it is learned with.
#[derive(Deserialize, Serialize)]
struct StoredRollout {
    ids: Vec<u32>,
    images: Vec<String>,
    learned: Vec<usize>,
    old: Vec<u32>,
    temperatures: Vec<u32>,
    entropies: Vec<u32>,
    advantages: Vec<Option<u64>>,
}

impl StoredRollout {
    fn of(rollout: &TrainingSample) -> StoredRollout {
        let learned: Vec<usize> = rollout.sample.targets().collect();
        let bits = |values: &[f32]| learned.iter().map(|&i| values[i].to_bits()).collect();
        StoredRollout {
            ids: rollout.sample.ids.clone(),
            images: rollout.sample.images.iter().map(|image| format!("{:032x}", image.prepared.digest)).collect(),
            old: bits(&rollout.old),
            temperatures: bits(&rollout.temperatures),
            entropies: bits(&rollout.entropies),
            advantages: learned.iter().map(|&i| rollout.advantages[i].map(f64::to_bits)).collect(),
            learned,
        }
    }

    fn rollout(&self, pictures: &BTreeMap<String, Arc<PreparedImage>>) -> Option<TrainingSample> {
        let tokens = self.ids.len();
        let spread = |bits: &[u32], elsewhere: f32| {
            let mut values = vec![elsewhere; tokens];
            for (&i, &bits) in self.learned.iter().zip(bits) {
                *values.get_mut(i)? = f32::from_bits(bits);
            }
            (bits.len() == self.learned.len()).then_some(values)
        };
        let (mut trained, mut advantages) = (vec![false; tokens], vec![None; tokens]);
        for (&i, bits) in self.learned.iter().zip(&self.advantages) {
            *trained.get_mut(i)? = true;
            advantages[i] = bits.map(f64::from_bits);
        }
        let image =
            |name: &String| Some(SampleImage { prepared: pictures.get(name)?.clone(), unmerged_features: None });
        let images = self.images.iter().map(image).collect::<Option<_>>()?;
        Some(TrainingSample {
            sample: Sample { ids: self.ids.clone(), trained, images },
            old: spread(&self.old, 0.0)?,
            temperatures: spread(&self.temperatures, 1.0)?,
            entropies: spread(&self.entropies, 0.0)?,
            advantages,
            reference: Vec::new(),
            is_replayed: true,
        })
    }
}
