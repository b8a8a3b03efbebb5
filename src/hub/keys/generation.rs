//! The keys of `generation_config.json`, which `generate`, `batch` and `serve` read; training and evaluation do not.

use super::entry::Effect::{Ignored, Unused, Used};
use super::entry::Entry;

const NOT_BUILT: &str = "it is not built";
const BY_REQUEST: &str = "give it as a flag or in the request";

/// How tokens are sampled.
pub const GENERATION: &[Entry] = &[
    Entry {
        names: &["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens"],
        effect: Used,
        note: "where neither a flag nor a request says otherwise",
    },
    Entry { names: &["do_sample"], effect: Used, note: "false means temperature 0, whatever `temperature` says" },
    Entry {
        names: &["eos_token_id"],
        effect: Used,
        note: "ends an answer; where it is absent that of config.json, else `<|im_end|>` and `<|endoftext|>`",
    },
    Entry {
        names: &["bos_token_id", "pad_token_id", "decoder_start_token_id"],
        effect: Unused,
        note: "nothing is padded, or begun by a token",
    },
    Entry {
        names: &[
            "transformers_version",
            "_from_model_config",
            "use_cache",
            "cache_implementation",
            "cache_config",
            "max_cache_len",
            "return_legacy_cache",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "output_logits",
            "return_dict_in_generate",
            "compile_config",
            "disable_compile",
            "low_memory",
            "prefill_chunk_size",
            "generation_kwargs",
            "continuous_batching_config",
        ],
        effect: Unused,
        note: "how another program computes the same, and what it returns beside",
    },
    Entry {
        names: &[
            "is_assistant",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "assistant_confidence_threshold",
            "assistant_early_exit",
            "assistant_lookbehind",
            "target_lookbehind",
            "prompt_lookup_num_tokens",
            "max_matching_ngram_size",
            "speculative_config",
        ],
        effect: Unused,
        note: "drafts, which do not show in the results",
    },
    Entry { names: &["num_beams", "num_beam_groups"], effect: Ignored(&["1"]), note: NOT_BUILT },
    Entry {
        names: &["length_penalty", "typical_p", "encoder_repetition_penalty"],
        effect: Ignored(&["1"]),
        note: NOT_BUILT,
    },
    Entry {
        names: &["early_stopping", "renormalize_logits", "remove_invalid_values", "token_healing"],
        effect: Ignored(&["false"]),
        note: NOT_BUILT,
    },
    Entry { names: &["guidance_scale"], effect: Ignored(&["1"]), note: NOT_BUILT },
    Entry {
        names: &[
            "diversity_penalty",
            "penalty_alpha",
            "epsilon_cutoff",
            "eta_cutoff",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
        ],
        effect: Ignored(&["0"]),
        note: NOT_BUILT,
    },
    Entry {
        names: &[
            "top_h",
            "constraints",
            "force_words_ids",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "suppress_tokens",
            "begin_suppress_tokens",
            "exponential_decay_length_penalty",
            "watermarking_config",
            "dola_layers",
            "max_time",
        ],
        effect: Ignored(&[]),
        note: NOT_BUILT,
    },
    Entry {
        names: &["max_length"],
        effect: Ignored(&["20"]),
        note: "give `max_new_tokens`, the flag or the field of the request",
    },
    Entry { names: &["num_return_sequences"], effect: Ignored(&["1"]), note: BY_REQUEST },
    Entry { names: &["min_length", "min_new_tokens"], effect: Ignored(&["0"]), note: BY_REQUEST },
    Entry { names: &["bad_words_ids", "sequence_bias", "stop_strings"], effect: Ignored(&[]), note: BY_REQUEST },
];
