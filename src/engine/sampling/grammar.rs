//! Grammars: which tokens may follow what a sequence has drawn. Compiled away from the engine's thread, advanced by one token a step.

use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::prompt::Tokenizer;

/// States of a grammar's lexer at most, of one or two kilobytes each: what a compiled grammar may grow to.
const LEXER_STATES_MAX: usize = 20_000;
/// Symbols of a grammar at most.
const SYMBOLS_MAX: usize = 100_000;

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// JSON that fits a JSON schema.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// Text of a grammar in Lark's notation, as llguidance reads it.
    Lark(String),
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
        // A byte that no text has stands before special tokens: no text that a grammar allows is one of them.
        let bytes = |id: u32| match tokenizer.is_special(id) {
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_bytes(id)].concat(),
            false => tokenizer.token_bytes(id).to_vec(),
        };
        let tokens: Vec<Vec<u8>> = (0..vocab as u32).map(bytes).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, eos[0]), &tokens).with_eos_tokens(eos);
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
        let parser = self.factory.create_parser(TopLevelGrammar::from_grammar(source));
        let mut matcher = Matcher::new(parser);
        // The first mask shows what only a use would: that nothing fits, or that it takes too long.
        matcher.compute_mask_or_eos().map_err(|error| reason(&error.to_string()))?;
        Ok(Grammar { matcher, words: self.words })
    }
}

/// A grammar, and how far a sequence has come in it. Clones go their own ways, and share what was found out about the grammar.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    words: usize,
}

impl Grammar {
    /// The mask of the tokens that may come next; of those that end a turn where nothing else may, and of none where the grammar asks for
    /// more than it may.
    pub fn mask(&mut self) -> Vec<u32> {
        let mut mask = match self.matcher.compute_mask_or_eos() {
            Ok(mask) => mask.as_slice().to_vec(),
            Err(error) => {
                tracing::warn!("a grammar failed: {}", reason(&error.to_string()));
                Vec::new()
            }
        };
        mask.resize(self.words, 0);
        mask
    }

    /// Goes on by a drawn token.
    pub fn accept(&mut self, token: u32) {
        // What it does not take puts an end to it: the next mask allows nothing.
        let _ = self.matcher.consume_token(token);
    }
}

/// An error of llguidance in words for people.
fn reason(error: &str) -> String {
    let reason = error.trim_end().trim_end_matches("<non-verbose/>").trim_end();
    if reason.starts_with("NoExtension") { "no text fits it".to_owned() } else { reason.to_owned() }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Grammar").finish_non_exhaustive()
    }
}
