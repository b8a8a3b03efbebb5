//! Forms of weights that are not read, each with its own remedy.

/// A form in which weights are not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OtherForm {
    /// A LoRA, or another adapter: the model that it belongs to, if it says so.
    Adapter(Option<String>),
    /// Pickled tensors of PyTorch.
    Pickle(String),
    /// A file of llama.cpp.
    Gguf(String),
    /// Weights of TensorFlow or Flax.
    OtherLibrary(String),
    /// Safetensors under another name, or without their index.
    Unnamed(String),
    /// A run's folder, of which this is the newest checkpoint.
    Run(String),
}

impl std::fmt::Display for OtherForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OtherForm::Adapter(base) => {
                let base = base.as_deref().unwrap_or("the model that it was trained on");
                write!(
                    f,
                    "a LoRA adapter (adapter_config.json), which is not applied; merge it into {base} in Python and give that folder: \
                     PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(merged), with the tokenizer's files"
                )
            }
            OtherForm::Pickle(name) => write!(
                f,
                "{name}, pickled tensors, which are not read; write safetensors in Python: \
                 AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(folder); shards of FSDP, DeepSpeed or Megatron are \
                 merged by the framework that wrote them (`zero_to_fp32.py`, `accelerate merge-weights`, `python -m verl.model_merger`)"
            ),
            OtherForm::Gguf(name) => {
                write!(
                    f,
                    "{name}, quantised for llama.cpp, which is not read; use the checkpoint that it was made from"
                )
            }
            OtherForm::OtherLibrary(name) => write!(
                f,
                "{name}, weights of another library, which are not read; use the checkpoint's safetensors, or write them with transformers"
            ),
            OtherForm::Unnamed(name) => write!(
                f,
                "{name}, but neither model.safetensors nor model.safetensors.index.json, which says what is in which file; copy the index \
                 too, or rename a single file to model.safetensors"
            ),
            OtherForm::Run(name) => write!(f, "no weights itself, but {name} inside it; give that folder"),
        }
    }
}
