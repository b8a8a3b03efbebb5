//! What a sequence says next, drafted from what it said before: it may go on as it did after the same tokens. Places are found by the two
//! tokens before them, and of the last such places the one with the longest match before it is taken.

use std::collections::HashMap;

use super::acceptance::{Acceptance, Outcome, SEQUENCE_KEEPS};

/// Tokens by which places are found.
const PAIR: usize = 2;
/// Places that are looked at.
const PLACES_MAX: usize = 8;
/// Tokens of a match that are counted.
const MATCH_LEN_MAX: usize = 32;

/// One sequence's earlier text, its draft and how its drafts did.
#[derive(Debug, Default)]
pub struct Drafter {
    /// For each two tokens, the last place after them.
    last: HashMap<[u32; PAIR], u32>,
    /// For each place, the one before it that follows the same two tokens; 0 where there is none.
    earlier: Vec<u32>,
    draft: Draft,
    acceptance: Acceptance,
}

/// Tokens that may come next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Draft {
    /// The tokens, of which the first `checked` were accepted.
    tokens: Vec<u32>,
    checked: usize,
    /// Tokens before the place where they were found that match those before the draft.
    match_len: usize,
}

impl Draft {
    /// The tokens that are not checked yet.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[self.checked..]
    }

    /// How many these are.
    pub fn len(&self) -> usize {
        self.tokens().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens().is_empty()
    }

    /// Tokens before the next one that match.
    pub fn match_len(&self) -> usize {
        self.match_len + self.checked
    }
}

impl Drafter {
    /// Drafts how a sequence goes on: at most `tokens_max` tokens, up to the first that may not be drafted. Reads what was added since the
    /// last time; `ids` only ever grows. A pair with `image_pad` in it leads nowhere.
    pub fn propose(&mut self, ids: &[u32], tokens_max: usize, image_pad: u32, may_draft: impl Fn(u32) -> bool) {
        self.read(ids, image_pad);
        self.draft = Draft::default();
        let Some((match_len, place)) = self.find(ids) else { return };
        // A sequence that goes round and round catches up with itself.
        let period = ids.len() - place;
        let following = (0..tokens_max).map(|i| ids[place + i % period]);
        self.draft = Draft { tokens: following.take_while(|&id| may_draft(id)).collect(), checked: 0, match_len };
    }

    /// The draft of what comes next.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// Drops the draft: something else came.
    pub fn drop_draft(&mut self) {
        self.draft = Draft::default();
    }

    /// How this sequence's drafts did.
    pub fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// Verifies the draft's next token, if there is one, against the token that was sampled. The draft lasts as long as it is accepted.
    pub fn verify(&mut self, sampled: u32) -> Option<Outcome> {
        let drafted = *self.draft.tokens().first()?;
        let outcome = Outcome { match_len: self.draft.match_len(), is_accepted: drafted == sampled };
        self.acceptance.count(outcome, SEQUENCE_KEEPS);
        match outcome.is_accepted {
            true => self.draft.checked += 1,
            false => self.drop_draft(),
        }
        Some(outcome)
    }

    /// Indexes the places after the new tokens.
    fn read(&mut self, ids: &[u32], image_pad: u32) {
        for place in self.earlier.len()..ids.len() {
            let pair = ids[..place].last_chunk::<PAIR>().filter(|pair| !pair.contains(&image_pad));
            let before = pair.and_then(|pair| self.last.insert(*pair, place as u32));
            self.earlier.push(before.unwrap_or(0));
        }
    }

    /// Of the last places after the same two tokens as the end, the one with the longest match before it, and of such the last: the
    /// match's length, and the place.
    fn find(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let first = *self.last.get(ids.last_chunk::<PAIR>()?)?;
        let before = |place: &u32| Some(self.earlier[*place as usize]).filter(|&earlier| earlier > 0);
        let places = std::iter::successors(Some(first), before).take(PLACES_MAX).map(|place| place as usize);
        let match_len = |place: usize| {
            let pairs = ids[..place].iter().rev().zip(ids.iter().rev()).take(MATCH_LEN_MAX);
            pairs.take_while(|(before, end)| before == end).count()
        };
        places.map(|place| (match_len(place), place)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAD: u32 = 99;

    fn draft(ids: &[u32], tokens_max: usize) -> Draft {
        let mut drafter = Drafter::default();
        drafter.propose(ids, tokens_max, PAD, |id| id < 90);
        drafter.draft().clone()
    }

    #[test]
    fn the_longest_match_wins_and_of_equal_ones_the_last() {
        let longest = draft(&[1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 2);
        assert_eq!((longest.tokens(), longest.match_len()), (&[7, 9][..], 3));
        let last = draft(&[5, 2, 3, 7, 6, 2, 3, 8, 4, 2, 3], 1);
        assert_eq!((last.tokens(), last.match_len()), (&[8][..], 2));
    }

    #[test]
    fn there_is_no_draft_without_a_match_of_two_tokens() {
        for ids in [&[][..], &[4], &[4, 4], &[1, 2, 3, 4, 2], &[1, 2, 3, 1, 4]] {
            assert!(draft(ids, 8).is_empty(), "{ids:?}");
        }
    }

    #[test]
    fn a_loop_is_followed_beyond_its_end() {
        assert_eq!(draft(&[6, 1, 2, 3, 1, 2, 3, 1, 2], 7).tokens(), [3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(draft(&[4, 4, 4], 5).tokens(), [4; 5]);
    }

    #[test]
    fn a_draft_ends_before_what_may_not_be_drafted() {
        assert_eq!(draft(&[1, 2, 5, 95, 6, 1, 2], 8).tokens(), [5]);
        assert!(draft(&[1, 2, 95, 6, 1, 2], 8).is_empty());
    }

    #[test]
    fn images_lead_nowhere() {
        let ids = [1, PAD, PAD, PAD, 2, 1, PAD, PAD];
        assert!(draft(&ids, 8).is_empty());
        assert!(draft(&ids[..7], 8).is_empty());
    }

    #[test]
    fn what_is_read_bit_by_bit_is_read_as_at_once() {
        let ids: Vec<u32> = (0..400u32).map(|i| i * i % 7 + i % 3).collect();
        let mut drafter = Drafter::default();
        for end in 1..=ids.len() {
            drafter.propose(&ids[..end], 4, PAD, |_| true);
            let mut fresh = Drafter::default();
            fresh.propose(&ids[..end], 4, PAD, |_| true);
            assert_eq!(drafter.draft(), fresh.draft(), "after {end} tokens");
        }
        assert_eq!(drafter.earlier, {
            let mut fresh = Drafter::default();
            fresh.read(&ids, PAD);
            fresh.earlier
        });
    }

    #[test]
    fn a_draft_is_verified_until_a_token_differs() {
        let mut drafter = Drafter::default();
        drafter.propose(&[1, 2, 3, 4, 5, 1, 2], 3, PAD, |_| true);
        assert_eq!(drafter.verify(3), Some(Outcome { match_len: 2, is_accepted: true }));
        assert_eq!((drafter.draft().tokens(), drafter.draft().match_len()), (&[4, 5][..], 3));
        assert_eq!(drafter.verify(9), Some(Outcome { match_len: 3, is_accepted: false }));
        assert_eq!(drafter.verify(5), None);
    }
}
