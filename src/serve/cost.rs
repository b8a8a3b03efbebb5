//! What a request's answer may weigh: it is known before the first token is sampled, and refused if it is too much.

use super::answers::Kind;
use super::error::ApiError;
use super::sampling::{Defaults, Settings};
use crate::prompt::Tokenizer;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: f64 = (256u64 << 20) as f64;
/// Bytes of an entry of a list of log-probabilities without the token's own: names of fields, numbers, brackets.
const CHAT_ENTRY_BYTES: f64 = 51.0;
const TEXT_ENTRY_BYTES: f64 = 21.0;
const PROMPT_ENTRY_BYTES: f64 = 66.0;
/// Bytes of a token's id with its comma, and of `token_id:N` in place of its text.
const ID_BYTES: f64 = 7.0;
const ID_NAME_BYTES: f64 = 15.0;

/// Bytes that a token of a vocabulary takes in JSON.
#[derive(Clone, Copy, Debug)]
pub struct TokenBytes {
    /// As text: the mean of the vocabulary, and the most.
    text: Weight,
    /// As a list of its bytes.
    list: Weight,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weight {
    mean: f64,
    most: f64,
}

impl Weight {
    fn of(sizes: impl Iterator<Item = usize>) -> Weight {
        let (mut count, mut sum, mut most) = (0, 0, 0);
        for size in sizes {
            (count, sum, most) = (count + 1, sum + size, most.max(size));
        }
        Weight { mean: sum as f64 / f64::max(1.0, f64::from(count)), most: most as f64 }
    }

    /// The mean, or the most where a client chooses which tokens are told.
    fn get(self, is_chosen: bool) -> f64 {
        if is_chosen { self.most } else { self.mean }
    }
}

impl TokenBytes {
    /// Those of the first `vocab` ids.
    pub fn of(tokenizer: &Tokenizer, vocab: usize) -> TokenBytes {
        let bytes = |id: usize| tokenizer.token_bytes(id as u32);
        // A control character takes six bytes; half a character becomes one of three.
        let text =
            |bytes: &[u8]| bytes.iter().map(|byte| if *byte < 0x20 { 6 } else { 1 + usize::from(*byte >= 0x80) }).sum();
        let list = |bytes: &[u8]| bytes.iter().map(|byte| 2 + usize::from(*byte > 9) + usize::from(*byte > 99)).sum();
        TokenBytes {
            text: Weight::of((0..vocab).map(|id| text(bytes(id)))),
            list: Weight::of((0..vocab).map(|id| list(bytes(id)))),
        }
    }
}

impl Defaults {
    /// Lets a request in, or says what is too much of it: answers to prompts of so many tokens each, of one kind.
    ///
    /// # Errors
    /// When its answer may weigh too much.
    pub fn admit(&self, settings: &Settings, kind: Kind, prompts: &[usize]) -> Result<(), ApiError> {
        self.check_answers(prompts.len(), settings)?;
        let n = settings.n as f64;
        let tokens: Vec<usize> = prompts.iter().map(|prompt| self.answer_tokens(settings, *prompt)).collect();
        let answered = n * tokens.iter().sum::<usize>() as f64 * self.bytes_of_token(settings, kind);
        // Each answer to a prompt repeats what is told of the prompt; a chat tells it once.
        let times = if kind == Kind::Text { n } else { 1.0 };
        let scored = times * prompts.iter().sum::<usize>() as f64 * self.bytes_of_prompt_token(settings, kind);
        if answered + scored <= ANSWER_BYTES_MAX {
            return Ok(());
        }
        let megabytes = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
        let rows = prompts.len() * settings.n;
        let (field, asked, remedy) = match (scored > answered, settings.logprobs) {
            (true, _) => {
                let (prompts, top) = (prompts.iter().sum::<usize>(), settings.prompt_logprobs.unwrap_or(0));
                let asked = format!("log-probabilities of {prompts} prompt tokens with {top} of the likeliest each");
                ("prompt_logprobs", asked, "ask for fewer of the likeliest, or for fewer prompts at a time")
            }
            (false, top) => {
                let each = tokens.iter().max().copied().unwrap_or(0);
                let with = top.map_or_else(String::new, |top| {
                    format!(", with log-probabilities of each and of {top} of the likeliest")
                });
                let remedy = "lower max_tokens, n or the number of log-probabilities, or send fewer prompts at a time";
                ("max_tokens", format!("{rows} answers of up to {each} tokens{with}"), remedy)
            }
        };
        let message = format!(
            "asks for too much: {asked} make {} of JSON, and an answer may have {}; {remedy}",
            megabytes(answered + scored),
            megabytes(ANSWER_BYTES_MAX)
        );
        Err(ApiError::field(field, message))
    }

    /// Bytes that a token of an answer takes.
    fn bytes_of_token(&self, settings: &Settings, kind: Kind) -> f64 {
        let is_chosen = settings.chooses_tokens;
        let text = self.token_bytes.text.get(is_chosen);
        let ids = if settings.token_ids { ID_BYTES } else { 0.0 };
        text + ids + settings.logprobs.map_or(0.0, |top| self.bytes_of_entries(settings, kind, top, is_chosen))
    }

    /// Bytes of a token's entry with those of `top` of the likeliest.
    fn bytes_of_entries(&self, settings: &Settings, kind: Kind, top: usize, is_chosen: bool) -> f64 {
        // Where all are told, they are what they are.
        let is_chosen = is_chosen && top < self.vocab / 2;
        let name = if settings.tokens_as_ids { ID_NAME_BYTES } else { self.token_bytes.text.get(is_chosen) };
        match kind {
            // The token's text also stands among the texts.
            Kind::Text => name + 10.0 + (1 + top) as f64 * (TEXT_ENTRY_BYTES + name),
            Kind::Chat | Kind::Tokens => {
                18.0 + (1 + top) as f64 * (CHAT_ENTRY_BYTES + name + self.token_bytes.list.get(is_chosen))
            }
        }
    }

    /// Bytes of what is told of a prompt's token: its id, and its log-probabilities, of an echoed prompt in both forms.
    fn bytes_of_prompt_token(&self, settings: &Settings, kind: Kind) -> f64 {
        let ids = if settings.token_ids { ID_BYTES } else { 0.0 };
        let Some(top) = settings.prompt_logprobs else { return ids };
        let name = self.token_bytes.text.mean;
        let echoed = match (settings.echo, settings.logprobs, kind) {
            (true, Some(_), Kind::Text) => name + self.bytes_of_entries(settings, kind, top, false),
            _ => 0.0,
        };
        ids + echoed + (1 + top) as f64 * (PROMPT_ENTRY_BYTES + name)
    }
}
