//! What may be asked of an answer's tokens beyond how they are sampled: biases, bans, penalties on what was sampled already, a grammar.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::grammar::Grammar;

/// What is asked; by default nothing. It concerns the tokens that the model samples: those of the prompt do not count.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// Added to the logits of tokens.
    pub bias: BTreeMap<u32, f32>,
    /// Taken from the logit of a token that was sampled.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time that it was sampled.
    pub frequency_penalty: f32,
    /// Runs of tokens: where all but the last have just been sampled, the last is banned.
    pub bad_words: Vec<Vec<u32>>,
    /// The only tokens that may be sampled, if not all.
    pub allowed: Option<Vec<u32>>,
    /// Until this many tokens were sampled, those that end the sequence are banned; stop strings that the last of them completes do not count.
    pub min_tokens: usize,
    /// What the whole must look like.
    pub grammar: Option<Grammar>,
}

impl Constraints {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        let Constraints { bias, presence_penalty, frequency_penalty, bad_words, allowed, min_tokens, grammar } = self;
        bias.is_empty()
            && (*presence_penalty, *frequency_penalty) == (0.0, 0.0)
            && bad_words.is_empty()
            && allowed.is_none()
            && *min_tokens == 0
            && grammar.is_none()
    }

    fn counts(&self) -> bool {
        (self.presence_penalty, self.frequency_penalty) != (0.0, 0.0)
    }
}

/// Constraint state of one sequence.
#[derive(Clone, Debug)]
pub struct Constrained {
    constraints: Arc<Constraints>,
    /// Tokens that end the sequence.
    ends: Vec<u32>,
    /// How many tokens were sampled.
    sampled: usize,
    /// How often each token was sampled, kept only where a penalty asks for it.
    counts: BTreeMap<u32, u32>,
    /// The last ones, one fewer than the longest bad word has.
    tail: Vec<u32>,
    grammar: Option<Grammar>,
    /// Mask of the allowed tokens.
    fixed: Option<Vec<u32>>,
    bias: Vec<(u32, f32)>,
    /// Mask of the next sample; none where there is no mask, or where the grammar's has yet to be made.
    mask: Option<Vec<u32>>,
}

impl Constrained {
    /// Before the first token, of a vocabulary of `vocab` tokens; `ends` are those that end the sequence.
    pub fn new(constraints: &Arc<Constraints>, ends: &[u32], vocab: usize) -> Constrained {
        let fixed = constraints.allowed.as_ref().map(|ids| mask_of(ids, vocab));
        let mut constrained = Constrained {
            constraints: constraints.clone(),
            ends: ends.to_vec(),
            sampled: 0,
            counts: BTreeMap::new(),
            tail: Vec::new(),
            grammar: constraints.grammar.clone(),
            mask: fixed.clone().filter(|_| constraints.grammar.is_none()),
            fixed,
            bias: Vec::new(),
        };
        constrained.renew_bias();
        constrained
    }

    /// What is added to logits in the next sample.
    pub fn bias(&self) -> &[(u32, f32)] {
        &self.bias
    }

    /// Which tokens the next sample may bring.
    pub fn mask(&self) -> Option<&[u32]> {
        self.mask.as_deref()
    }

    /// Whether there is a grammar.
    pub fn has_grammar(&self) -> bool {
        self.grammar.is_some()
    }

    /// Whether the grammar's mask has yet to be made.
    pub fn lacks_mask(&self) -> bool {
        self.grammar.is_some() && self.mask.is_none()
    }

    /// Makes the grammar's mask.
    pub fn make_mask(&mut self) {
        let Some(grammar) = &mut self.grammar else { return };
        let mut mask = grammar.mask();
        for (word, fixed) in mask.iter_mut().zip(self.fixed.iter().flatten()) {
            *word &= fixed;
        }
        self.mask = Some(mask);
    }

    /// Whether the sequence may end with the token that was sampled last.
    pub fn may_end(&self) -> bool {
        self.sampled > self.constraints.min_tokens
    }

    /// Takes a token that the model sampled.
    pub fn read_own(&mut self, token: u32) {
        self.sampled += 1;
        if self.constraints.counts() {
            *self.counts.entry(token).or_default() += 1;
        }
        let longest = self.constraints.bad_words.iter().map(Vec::len).max().unwrap_or(0);
        self.tail.push(token);
        let surplus = self.tail.len().saturating_sub(longest.saturating_sub(1));
        self.tail.drain(..surplus);
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token);
            self.mask = None;
        }
        self.renew_bias();
    }

    /// Something that the model did not sample came between: no bad word spans it.
    pub fn interrupt(&mut self) {
        self.tail.clear();
        self.renew_bias();
    }

    fn renew_bias(&mut self) {
        let Constraints { presence_penalty, frequency_penalty, bad_words, min_tokens, .. } = &*self.constraints;
        let mut bias = self.constraints.bias.clone();
        for (&token, &count) in &self.counts {
            *bias.entry(token).or_default() -= frequency_penalty * count as f32 + presence_penalty;
        }
        let completed =
            bad_words.iter().filter_map(|word| word.split_last()).filter(|(_, rest)| self.tail.ends_with(rest));
        bias.extend(completed.map(|(&last, _)| (last, f32::NEG_INFINITY)));
        if self.sampled < *min_tokens {
            bias.extend(self.ends.iter().map(|&end| (end, f32::NEG_INFINITY)));
        }
        self.bias = bias.into_iter().collect();
    }
}

/// A bit for each token, set for these.
fn mask_of(ids: &[u32], vocab: usize) -> Vec<u32> {
    let mut mask = vec![0; vocab.div_ceil(32)];
    for &id in ids {
        mask[id as usize / 32] |= 1 << (id % 32);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANNED: f32 = f32::NEG_INFINITY;

    fn constrained(constraints: Constraints) -> Constrained {
        Constrained::new(&Arc::new(constraints), &[7, 8], 40)
    }

    #[test]
    fn penalties_count_what_was_sampled() {
        let bias = BTreeMap::from([(3, 1.0), (5, 2.0)]);
        let constraints =
            Constraints { bias, presence_penalty: 0.5, frequency_penalty: 0.25, ..Constraints::default() };
        let mut state = constrained(constraints);
        assert_eq!(state.bias(), [(3, 1.0), (5, 2.0)]);
        [3, 4, 3].into_iter().for_each(|token| state.read_own(token));
        assert_eq!(state.bias(), [(3, 0.0), (4, -0.75), (5, 2.0)]);
    }

    #[test]
    fn a_bad_word_ends_where_its_beginning_was_sampled_in_one_go() {
        let bad_words = vec![vec![1], vec![2, 3, 4], vec![3, 5]];
        let mut state = constrained(Constraints { bad_words, ..Constraints::default() });
        assert_eq!(state.bias(), [(1, BANNED)]);
        [9, 2, 3].into_iter().for_each(|token| state.read_own(token));
        assert_eq!(state.bias(), [(1, BANNED), (4, BANNED), (5, BANNED)]);
        state.interrupt();
        assert_eq!(state.bias(), [(1, BANNED)]);
    }

    #[test]
    fn a_bad_word_of_one_token_alone_is_banned_at_once() {
        let state = constrained(Constraints { bad_words: vec![vec![6]], ..Constraints::default() });
        assert_eq!(state.bias(), [(6, BANNED)]);
    }

    #[test]
    fn ends_are_banned_until_enough_was_sampled() {
        let mut state = constrained(Constraints { min_tokens: 2, ..Constraints::default() });
        state.read_own(1);
        assert_eq!(state.bias(), [(7, BANNED), (8, BANNED)]);
        state.read_own(1);
        assert_eq!((state.bias(), state.may_end()), ([].as_slice(), false));
        state.read_own(1);
        assert!(state.may_end());
    }

    #[test]
    fn the_mask_has_a_bit_for_each_allowed_token() {
        let state = constrained(Constraints { allowed: Some(vec![0, 33]), ..Constraints::default() });
        assert_eq!(state.mask(), Some([1, 2].as_slice()));
        assert!(!constrained(Constraints::default()).lacks_mask());
    }
}
