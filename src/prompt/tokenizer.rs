//! Text to token ids and back, by the checkpoint's `tokenizer.json` (byte-level BPE). Knows the exact bytes of every token,
//! so text can be streamed without ever showing half a character.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use thiserror::Error;
use tokenizers::{AddedToken, Encoding, Model, Normalizer, OffsetType, PreTokenizedString, PreTokenizer};

use super::added_tokens::Declared;
use super::byte_level::{byte_level_bytes, names_byte_level};
use super::tokenizer_bounds;
use crate::files::open::{TOKENIZER_BYTES_MAX, read};
use crate::hub::{POINTER_REMEDY, is_lfs_pointer};

/// A tokenizer that cannot be read or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The folder has no `tokenizer.json`.
    #[error(
        "{} does not exist; a checkpoint folder needs tokenizer.json \
         (with vocab.json and merges.txt only, write one in Python: \
         AutoTokenizer.from_pretrained(folder).save_pretrained(folder))", path.display()
    )]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a tokenizer.
    #[error("{} is not a tokenizer.json that this build reads: {reason}; copy it again from the checkpoint", path.display())]
    Invalid {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The file asks for more than a tokenizer needs.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// What git-lfs left in place of the file.
    #[error("{} {POINTER_REMEDY}", path.display())]
    Pointer {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
    },
    /// A token in `tokenizer_config.json` or `added_tokens.json` that has no id or no text.
    #[error("beside {}: {reason}", path.display())]
    Declared {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
        /// The entry, and the remedy.
        reason: String,
    },
    /// `tokenizer_config.json` or `added_tokens.json` contradicts `tokenizer.json`.
    #[error("{} does not belong to {file} beside it: {reason}; take both from the same checkpoint", path.display())]
    Contradiction {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
        /// The other file.
        file: &'static str,
        /// What each says.
        reason: String,
    },
    /// The tokenizer is of another kind.
    #[error("{} has no ByteLevel decoder; only byte-level BPE tokenizers (as Qwen's) are supported", path.display())]
    NotByteLevel {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
    },
    /// A token that the checkpoint family needs is not in the vocabulary.
    #[error("the tokenizer in {} has no token {token:?}; it is not the tokenizer of a Qwen2-VL family checkpoint", path.display())]
    MissingToken {
        /// The folder's `tokenizer.json`.
        path: PathBuf,
        /// The token as a vocabulary writes it.
        token: String,
    },
    /// A text could not be encoded.
    #[error("cannot encode text of {bytes} bytes: {reason}")]
    Encode {
        /// Length of the text in UTF-8.
        bytes: usize,
        /// What the tokenizer said.
        reason: String,
    },
}

/// Unicode's normal form C makes a text at most so many times shorter: three letters of Hangul become one syllable.
const NORMALISED_SHRINK: usize = 3;

/// Texts of so many letters are encoded when a tokenizer is read, of each of these: they take well below a millisecond.
const PROBE_LETTERS: usize = 40;
const PROBES: [&str; 9] = ["a", "A", "1", " ", "\n", ".", "'", "é", "好"];
/// What the thread itself may take, however busy the machine is.
const PROBE_SECONDS_MAX: f64 = 1.0;

/// How long this thread has computed.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A byte-level BPE tokenizer. Encoding takes `&self` and may run on many threads.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`; ids that no token has are empty.
    ends: Vec<usize>,
    /// Whether each id is a special token.
    special: Vec<bool>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a checkpoint folder.
    ///
    /// # Errors
    /// When the file is missing, damaged, or not byte-level BPE.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let text = match read(&path, TOKENIZER_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(TokenizerError::Missing { path }),
            Err(source) => return Err(TokenizerError::Read { path, source }),
        };
        if is_lfs_pointer(&text) {
            return Err(TokenizerError::Pointer { path });
        }
        let invalid = |reason: String| TokenizerError::Invalid { path: path.clone(), reason };
        let json: Value = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if !names_byte_level(&json["decoder"]) {
            return Err(TokenizerError::NotByteLevel { path });
        }
        tokenizer_bounds::check(&json).map_err(|reason| TokenizerError::Unusable { path: path.clone(), reason })?;
        drop(json);
        // What it does not read it may panic at.
        let read = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(&text)));
        let read = read.map_err(|_| invalid("its parts contradict each other".to_owned()))?;
        let unknown_kind = ("data did not match any variant of untagged enum", "a part is of no known kind of");
        let mut inner = read.map_err(|error| invalid(error.to_string().replace(unknown_kind.0, unknown_kind.1)))?;
        // transformers sets both anew on every call; a saved setting must not cut a prompt.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        let tokenizer = Self::index(path, inner);
        tokenizer.check_speed()?;
        Ok(tokenizer)
    }

    /// Checks that texts of one letter again and again can be encoded, and soon.
    fn check_speed(&self) -> Result<(), TokenizerError> {
        let unusable = |reason: String| TokenizerError::Unusable { path: self.path.clone(), reason };
        for letter in PROBES {
            let began = thread_time();
            let encoded = catch_unwind(AssertUnwindSafe(|| self.encode(&letter.repeat(PROBE_LETTERS))));
            let text = format!("{PROBE_LETTERS} times {letter:?}");
            let encoded = encoded.map_err(|_| {
                unusable(format!(
                    "a part of its normalizer or pre_tokenizer fails at {text}; look for an empty pattern"
                ))
            })?;
            // What the model refuses is said where it is asked for.
            drop(encoded);
            let seconds = (thread_time() - began).as_secs_f64();
            if seconds > PROBE_SECONDS_MAX {
                return Err(unusable(format!(
                    "its normalizer or pre_tokenizer takes {seconds:.1} s for {text}; repeat nothing in a pattern that is repeated within itself"
                )));
            }
        }
        Ok(())
    }

    /// The same with the tokens that `tokenizer_config.json` (`config`) or `added_tokens.json` (`added`) declare, as transformers adds them.
    ///
    /// # Errors
    /// When a token's id, or how it takes the spaces beside it, contradicts `tokenizer.json`.
    pub fn with_declared(self, config: Option<&Value>, added: Option<&Value>) -> Result<Self, TokenizerError> {
        let Tokenizer { path, mut inner, .. } = self;
        let declared = Declared::new(config, added);
        let declared = declared.map_err(|reason| TokenizerError::Declared { path: path.clone(), reason })?;
        let contradiction =
            |reason: String| Err(TokenizerError::Contradiction { path: path.clone(), file: declared.file, reason });
        for (id, token) in &declared.tokens {
            let known =
                inner.get_added_tokens_decoder().get(id).filter(|known| known.content == token.content).cloned();
            let Some(known) = known else {
                add(&mut inner, token);
                match inner.token_to_id(&token.content) {
                    Some(found) if found == *id => continue,
                    found => {
                        let found = found.map_or("no id".to_owned(), |found| format!("the id {found}"));
                        return contradiction(format!(
                            "it says that {:?} has the id {id}, which has {found} here",
                            token.content
                        ));
                    }
                }
            };
            let spaces = |token: &AddedToken| (token.lstrip, token.rstrip, token.single_word);
            if spaces(&known) != spaces(token) {
                return contradiction(format!("lstrip, rstrip or single_word of {:?} differ", token.content));
            }
        }
        for token in &declared.special {
            add(&mut inner, &AddedToken::from(token.clone(), true));
        }
        let mut whole = Self::index(path, inner);
        for (id, token) in &declared.tokens {
            whole.special[*id as usize] = token.special || declared.special.contains(&token.content);
        }
        Ok(whole)
    }

    /// Tokens that a text of so many bytes has at least, whatever stands in it.
    pub fn tokens_min(&self, bytes: usize) -> usize {
        let starts = std::iter::once(&0).chain(&self.ends);
        let longest = starts.zip(&self.ends).map(|(start, end)| end - start).max().unwrap_or(1).max(1);
        bytes / (NORMALISED_SHRINK * longest)
    }

    /// Token ids of a text. Special tokens in the text become their ids; none are added around it.
    ///
    /// # Errors
    /// When the tokenizer's own model refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        ids_of(text, self.inner.encode_fast(text, false))
    }

    /// Token ids of a text in which nothing is an added token: `<|im_end|>` and `<tool_call>` are the tokens of their letters.
    ///
    /// # Errors
    /// When the tokenizer's own model refuses the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encode = || {
            let mut pieces = PreTokenizedString::from(text);
            if let Some(normalizer) = self.inner.get_normalizer() {
                pieces.normalize(|piece| normalizer.normalize(piece))?;
            }
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            pieces.tokenize(|piece| self.inner.get_model().tokenize(piece.get()))?;
            pieces.into_encoding(None, 0, OffsetType::None)
        };
        ids_of(text, encode())
    }

    /// The text of token ids; broken UTF-8 becomes U+FFFD and ids that no token has are left out, as in transformers.
    pub fn decode(&self, token_ids: &[u32], skip_special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(token_ids, skip_special)).into_owned()
    }

    /// The bytes of token ids, one token after the other.
    pub fn decode_bytes(&self, token_ids: &[u32], skip_special: bool) -> Vec<u8> {
        let kept = token_ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        kept.flat_map(|&id| self.token_bytes(id)).copied().collect()
    }

    /// The exact bytes that a token stands for; an added token stands for its literal text. Empty when no token has the id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match self.ends.get(id) {
            Some(&end) => &self.bytes[if id == 0 { 0 } else { self.ends[id - 1] }..end],
            None => &[],
        }
    }

    /// Whether a token is special: markup such as `<|im_end|>`, left out by `skip_special`.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of a token, given as the vocabulary writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id of a token that must be there.
    ///
    /// # Errors
    /// When the vocabulary does not have it.
    pub fn required_token_id(&self, token: &str) -> Result<u32, TokenizerError> {
        let missing = || TokenizerError::MissingToken { path: self.path.clone(), token: token.to_owned() };
        self.token_id(token).ok_or_else(missing)
    }

    /// One more than the largest token id.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the vocabulary is empty.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn index(path: PathBuf, inner: tokenizers::Tokenizer) -> Self {
        let vocabulary = inner.get_vocab(true);
        let added = inner.get_added_tokens_decoder();
        let len = vocabulary.values().map(|&id| id as usize + 1).max().unwrap_or(0);
        let mut tokens = vec![Vec::new(); len];
        for (token, id) in vocabulary {
            tokens[id as usize] = match added.contains_key(&id) {
                true => token.into_bytes(),
                false => byte_level_bytes(&token),
            };
        }
        let mut special = vec![false; len];
        for (id, token) in &added {
            special[*id as usize] = token.special;
        }
        let bytes = tokens.concat();
        let ends = tokens.iter().scan(0, |end, token| {
            *end += token.len();
            Some(*end)
        });
        let ends = ends.collect();
        Tokenizer { path, inner, bytes, ends, special }
    }
}

/// Adds a token that is not an added one yet; one of the vocabulary keeps its id.
fn add(inner: &mut tokenizers::Tokenizer, token: &AddedToken) {
    match token.special {
        true => inner.add_special_tokens([token.clone()]),
        false => inner.add_tokens([token.clone()]),
    }
    .expect("a token without a custom normaliser is always taken");
}

fn ids_of(text: &str, encoding: tokenizers::Result<Encoding>) -> Result<Vec<u32>, TokenizerError> {
    match encoding {
        Ok(encoding) => Ok(encoding.get_ids().to_vec()),
        Err(error) => Err(TokenizerError::Encode { bytes: text.len(), reason: error.to_string() }),
    }
}
