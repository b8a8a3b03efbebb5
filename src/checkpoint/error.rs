//! Why a checkpoint cannot be read or written.

use std::path::PathBuf;

use super::other_form::OtherForm;
use crate::hub::POINTER_REMEDY;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither a folder nor a name in the local cache.
    #[error(
        "no checkpoint `{name}`: it is neither a folder nor in the local Hugging Face cache ({cache}); give a folder with \
         config.json, or download it there first (`hf download {name}`)"
    )]
    NotFound {
        /// As the user gave it.
        name: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}{}", disk_hint(source))]
    File {
        /// What was tried: `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder without weights.
    #[error(
        "{0} holds neither model.safetensors nor model.safetensors.index.json; copy the weights there, or train from random ones with \
         `model.random_weights = true`"
    )]
    NoWeights(PathBuf),
    /// A folder with something else than the weights of a model.
    #[error("{path} holds {form}")]
    OtherForm {
        /// The folder that was looked into.
        path: PathBuf,
        /// What it holds, and the remedy.
        form: OtherForm,
    },
    /// What git-lfs left in place of a file.
    #[error("{0} {POINTER_REMEDY}")]
    Pointer(PathBuf),
    /// Two tensors that have one name once what training wrapped around them is left out.
    #[error("{path} has both `{}` and `{}`, which are the same tensor; keep the one that was trained", names[0], names[1])]
    SameTensor {
        /// The checkpoint folder.
        path: PathBuf,
        /// Both names, as the files store them.
        names: [String; 2],
    },
    /// A tensor that no plain checkpoint has.
    #[error("{path} holds the tensor `{name}`, {kind}")]
    ForeignTensor {
        /// The checkpoint folder.
        path: PathBuf,
        /// Its released name.
        name: String,
        /// What it is of, and the remedy.
        kind: ForeignTensor,
    },
    /// A head beside a config that ties it, where the model already runs without one.
    #[error(
        "{0} has a lm_head.weight that differs from model.embed_tokens.weight, but the running model uses the embedding table as its head; \
         set tie_word_embeddings to false in config.json and start anew from that folder"
    )]
    OwnHead(PathBuf),
    /// A folder of another model than the one that its weights are read into.
    #[error("config.json in {0} describes another model than the running one; start anew from that folder")]
    OtherConfig(PathBuf),
    /// A file that is damaged.
    #[error("{path} is damaged or incomplete: {reason}; download or copy it again")]
    Damaged {
        /// The file that is damaged.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that somebody wrote to.
    #[error(
        "{0} changed while it was read; write a checkpoint under another name, and rename its folder when it is whole"
    )]
    Changed(PathBuf),
    /// A saved run whose numbers cannot be those of a run.
    #[error(
        "{path}: `{name}` {problem}; go on from an earlier checkpoint, or start anew from this one as `model.path`"
    )]
    State {
        /// `optimizer.safetensors`, `trainer_state.json` or `logging_window.json`.
        path: PathBuf,
        /// A tensor of the optimizer, or a key of the trainer's state.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that the config asks for is not there.
    #[error(
        "{path} has no tensor `{name}`, which config.json asks for (it has `{example}`); take config.json and weights from the same \
         checkpoint, with the names that transformers saves"
    )]
    MissingTensor {
        /// The checkpoint folder.
        path: PathBuf,
        /// The tensor's released name.
        name: String,
        /// The first name that is there, as stored.
        example: String,
    },
    /// A tensor of another shape than the config says.
    #[error(
        "tensor `{name}` in {path} has shape {found:?}, config.json asks for {expected:?}; take config.json and weights from the same \
         checkpoint"
    )]
    Shape {
        /// The checkpoint folder.
        path: PathBuf,
        /// Its released name; of optimizer state with its suffix.
        name: String,
        /// Shape as the file has it.
        found: Vec<usize>,
        /// As the config says.
        expected: Vec<usize>,
    },
    /// Optimizer state that the present recipe needs is not there.
    #[error(
        "{path} has no optimizer state for `{name}`; go on with the `model.freeze_*` keys that the run was started with, or start anew \
         from this checkpoint as `model.path`"
    )]
    MissingMoments {
        /// The checkpoint folder.
        path: PathBuf,
        /// Name of the parameter.
        name: String,
    },
    /// Optimizer state of another kind than the present recipe keeps.
    #[error(
        "{path} has the moments of `{name}` as `optimizer.optim = \"{found}\"` stores them, the recipe says \"{expected}\"; go on with \
         `optimizer.optim = \"{found}\"`, or start anew from this checkpoint as `model.path`"
    )]
    MomentKind {
        /// The checkpoint folder.
        path: PathBuf,
        /// Name of the parameter.
        name: String,
        /// The key's value that stores moments so.
        found: &'static str,
        /// The value that the recipe gives.
        expected: &'static str,
    },
    /// An element type that is not read.
    #[error(
        "tensor `{name}` in {path} has element type {dtype}; bf16, f16 and f32 are read: convert the checkpoint first"
    )]
    Dtype {
        /// The checkpoint folder.
        path: PathBuf,
        /// Its released name.
        name: String,
        /// Element type as safetensors names it.
        dtype: String,
    },
    /// NaN or infinity among the weights.
    #[error("tensor `{name}` in {path} holds a value that is not finite (element {index}); the checkpoint is unusable")]
    NotFinite {
        /// The checkpoint folder.
        path: PathBuf,
        /// Its released name.
        name: String,
        /// Index of the first such element.
        index: usize,
    },
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] crate::model::config::ConfigError),
}

/// Tensors of checkpoints that must be changed before they can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForeignTensor {
    /// An adapter beside, or around, the model's own.
    Adapter,
    /// Packed numbers, or their scale.
    Quantised,
}

impl std::fmt::Display for ForeignTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ForeignTensor::Adapter => {
                "which belongs to an adapter; merge it in Python: model.merge_and_unload().save_pretrained(folder)"
            }
            ForeignTensor::Quantised => {
                "which belongs to quantised weights; use the checkpoint that was quantised, or write an unquantised copy with \
                 model.dequantize().save_pretrained(folder)"
            }
        })
    }
}

fn disk_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free some space, or point `output_dir` at another disk and go on with --resume"
        }
        std::io::ErrorKind::FileTooLarge => "; raise the limit on file sizes (`ulimit -f`), and go on with --resume",
        std::io::ErrorKind::PermissionDenied => "; check the permissions",
        _ => "",
    }
}

impl CheckpointError {
    /// For `map_err` on file operations.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> CheckpointError {
        let path = path.into();
        move |source| CheckpointError::File { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_what_helps() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let message = CheckpointError::file("write", "runs/a/checkpoint-1.partial/model.safetensors")(full).to_string();
        assert!(message.contains("model.safetensors") && message.contains("free some space"), "{message}");
    }
}
