//! Grammars: which tokens may follow what a sequence has sampled. Compiled away from the engine's thread, advanced by one token a step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};

pub use super::form::Form;
use crate::prompt::Tokenizer;

/// States of a grammar's lexer at most, of one or two kilobytes each: what a compiled grammar may grow to.
const LEXER_STATES_MAX: usize = 20_000;
/// A sequence ends after a token whose mask takes longer: a usual one takes well below a millisecond, and other sequences wait for it.
const MASK_TIME_MAX: Duration = Duration::from_secs(2);
/// Symbols of a grammar at most.
const SYMBOLS_MAX: usize = 100_000;

/// What llguidance says of its own settings and of Rust's types, and what a client can do.
const WORDS: [(&str, &str); 5] = [
    ("Expected f64 for", "Expected a number for"),
    ("Unimplemented keys:", "An answer cannot be held to these keywords; leave them out and check the answer:"),
    (
        "oneOf constraints are not supported. Enable 'coerce_one_of' option to approximate oneOf with anyOf",
        "An answer cannot be held to choices of oneOf that overlap; use anyOf",
    ),
    (
        "Only absolute $ref's (#/...) are supported without 'referencing' feature; ref",
        "A $ref must name a part of the schema itself (#/...), not",
    ),
    ("lookarounds not supported yet;", "word boundaries and look-around are not supported;"),
];

/// What a grammar needs to know of a tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vocabulary {
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`.
    ends: Vec<usize>,
    /// The tokens that end a turn.
    eos: Vec<u32>,
}

impl Vocabulary {
    /// Of a model of `vocab` ids whose turns end with a token of `eos`.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, eos: &[u32]) -> Vocabulary {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(vocab));
        for id in 0..vocab as u32 {
            // A byte that no text has marks special tokens: no text that a grammar allows is one of them.
            bytes.extend(tokenizer.is_special(id).then_some(TokTrie::SPECIAL_TOKEN_MARKER));
            bytes.extend_from_slice(tokenizer.token_bytes(id));
            ends.push(bytes.len());
        }
        Vocabulary { bytes, ends, eos: eos.to_vec() }
    }
}

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    /// Words of a mask.
    words: usize,
}

impl Grammars {
    /// For a model of `vocab` ids whose turns end with a token of `eos`, which must not be empty.
    ///
    /// # Errors
    /// When the vocabulary cannot be used for it.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, eos: &[u32]) -> Result<Grammars, String> {
        Grammars::of_vocabulary(&Vocabulary::new(tokenizer, vocab, eos))
    }

    /// [`Grammars::new`] by what it needs of a tokenizer.
    ///
    /// # Errors
    /// As that has them.
    pub fn of_vocabulary(vocabulary: &Vocabulary) -> Result<Grammars, String> {
        let Vocabulary { bytes, ends, eos } = vocabulary;
        let token = |id: usize| {
            let start = if id == 0 { 0 } else { ends[id - 1] };
            bytes.get(start..ends[id]).map(<[u8]>::to_vec).ok_or_else(|| "a token has no bytes".to_owned())
        };
        let tokens = (0..ends.len()).map(token).collect::<Result<Vec<_>, _>>()?;
        let &end = eos.first().ok_or("no token ends a turn")?;
        let vocab = tokens.len();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end), &tokens).with_eos_tokens(eos);
        // How text is cut into tokens is left to the model.
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| error.to_string())?;
        let limits = factory.limits_mut();
        limits.max_lexer_states = LEXER_STATES_MAX;
        limits.max_grammar_size = SYMBOLS_MAX;
        limits.verbose_errors = false;
        factory.quiet();
        Ok(Grammars { factory, words: vocab.div_ceil(32) })
    }

    /// Compiles a form.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn compile(&self, form: &Form) -> Result<Grammar, String> {
        let source = match form {
            Form::JsonSchema(schema) => GrammarWithLexer::from_json_schema(schema.clone()),
            Form::Regex(regex) => GrammarWithLexer::from_regex(regex),
            Form::Lark(lark) => GrammarWithLexer::from_lark(lark.clone()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(TopLevelGrammar::from_grammar(source)));
        // The first mask shows what only a use would: that nothing fits, or that it takes too long.
        matcher.compute_mask_or_eos().map_err(|error| reason(&error.to_string()))?;
        Ok(Grammar { matcher, words: self.words, is_spent: false })
    }
}

/// A grammar, and how far a sequence has come in it. Clones go their own ways, and share what was found out about the grammar.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    words: usize,
    /// A mask took too long: there is none any more.
    is_spent: bool,
}

impl Grammar {
    /// The mask of the tokens that may come next; of those that end a turn where nothing else may, and of none where the grammar asks for
    /// more than it may, or a mask of it took too long.
    pub fn mask(&mut self) -> Vec<u32> {
        if self.is_spent {
            return vec![0; self.words];
        }
        let began = Instant::now();
        let mut mask = match self.matcher.compute_mask_or_eos() {
            Ok(mask) => mask.as_slice().to_vec(),
            Err(error) => {
                tracing::warn!("a grammar failed: {}", reason(&error.to_string()));
                Vec::new()
            }
        };
        mask.resize(self.words, 0);
        if began.elapsed() > MASK_TIME_MAX {
            self.is_spent = true;
            tracing::warn!("a grammar took {:.1} s for a token; its sequence ends", began.elapsed().as_secs_f64());
        }
        mask
    }

    /// Goes on by a sampled token.
    pub fn accept(&mut self, token: u32) {
        // What it does not take puts an end to it: the next mask allows nothing.
        let _ = self.matcher.consume_token(token);
    }
}

/// An error of llguidance in words for people.
fn reason(error: &str) -> String {
    let reason = error.trim_end().trim_end_matches("<non-verbose/>").trim_end();
    if reason.starts_with("NoExtension") {
        return "no text fits it".to_owned();
    }
    if let Some(panic) = reason.strip_prefix("panic: ") {
        return format!("it meets a fault of the grammar compiler ({panic}); write it in another way");
    }
    if let Some((_, range)) = reason.split_once("Failed to generate regex for ") {
        let range = range.replace("Some(", "").replace(')', "").replace("None", "none");
        return format!("it cannot be held to an {range}; leave the bound out and check the answer");
    }
    WORDS.iter().fold(reason.to_owned(), |reason, (own, plain)| reason.replace(own, plain))
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Grammar").finish_non_exhaustive()
    }
}
