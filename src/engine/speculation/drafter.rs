//! What a sequence says next, guessed from what it said before: it may go on as it did after the same tokens. Places are found by the two
//! tokens before them, and of the last such places the one that has most before it alike is taken.

use std::collections::HashMap;

use super::acceptance::{Acceptance, SEQUENCE_KEEPS};

/// Tokens by which places are found.
const PAIR: usize = 2;
/// Places that are looked at.
const PLACES_MAX: usize = 8;
/// Tokens alike that are counted.
const ALIKE_MAX: usize = 32;

/// One sequence's earlier text, its guess and how its guesses did.
#[derive(Debug, Default)]
pub struct Drafter {
    /// For each two tokens, the last place behind them.
    last: HashMap<[u32; PAIR], u32>,
    /// For each place, the one before it that is behind the same two tokens; 0 where there is none.
    earlier: Vec<u32>,
    guess: Guess,
    acceptance: Acceptance,
}

/// Tokens that may come next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Guess {
    /// The tokens, of which the first `checked` came true.
    tokens: Vec<u32>,
    checked: usize,
    /// Tokens before the place where they were found that are as those before the guess.
    alike: usize,
}

/// A guess held against a draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Tokens before it that were alike.
    pub alike: usize,
    /// Whether it came true.
    pub is_hit: bool,
}

impl Guess {
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

    /// Tokens before the next one that are alike.
    pub fn alike(&self) -> usize {
        self.alike + self.checked
    }
}

impl Drafter {
    /// Guesses how a sequence goes on: at most `tokens_max` tokens, up to the first that may not be drafted. Reads what was added since the
    /// last time; `ids` only ever grows. A pair with `image_pad` in it leads nowhere.
    pub fn look(&mut self, ids: &[u32], tokens_max: usize, image_pad: u32, may_draft: impl Fn(u32) -> bool) {
        self.read(ids, image_pad);
        self.guess = Guess::default();
        let Some((alike, place)) = self.find(ids) else { return };
        // A sequence that goes round and round catches up with itself.
        let period = ids.len() - place;
        let following = (0..tokens_max).map(|i| ids[place + i % period]);
        self.guess = Guess { tokens: following.take_while(|&id| may_draft(id)).collect(), checked: 0, alike };
    }

    /// The guess at what comes next.
    pub fn guess(&self) -> &Guess {
        &self.guess
    }

    /// Drops the guess: something else came.
    pub fn forget_guess(&mut self) {
        self.guess = Guess::default();
    }

    /// How this sequence's guesses did.
    pub fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// Holds the guess, if there is one, against the token that was drawn. It goes on as long as it comes true.
    pub fn hear(&mut self, drawn: u32) -> Option<Outcome> {
        let guessed = *self.guess.tokens().first()?;
        let outcome = Outcome { alike: self.guess.alike(), is_hit: guessed == drawn };
        self.acceptance.count(outcome, SEQUENCE_KEEPS);
        match outcome.is_hit {
            true => self.guess.checked += 1,
            false => self.forget_guess(),
        }
        Some(outcome)
    }

    /// Takes up the places behind the tokens that are new.
    fn read(&mut self, ids: &[u32], image_pad: u32) {
        for place in self.earlier.len()..ids.len() {
            let pair = ids[..place].last_chunk::<PAIR>().filter(|pair| !pair.contains(&image_pad));
            let before = pair.and_then(|pair| self.last.insert(*pair, place as u32));
            self.earlier.push(before.unwrap_or(0));
        }
    }

    /// Of the last places behind the same two tokens as the end, the one that has most alike before it, and of such the last: how many
    /// tokens, and the place.
    fn find(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let first = *self.last.get(ids.last_chunk::<PAIR>()?)?;
        let before = |place: &u32| Some(self.earlier[*place as usize]).filter(|&earlier| earlier > 0);
        let places = std::iter::successors(Some(first), before).take(PLACES_MAX).map(|place| place as usize);
        let alike = |place: usize| {
            let pairs = ids[..place].iter().rev().zip(ids.iter().rev()).take(ALIKE_MAX);
            pairs.take_while(|(before, end)| before == end).count()
        };
        places.map(|place| (alike(place), place)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAD: u32 = 99;

    fn guess(ids: &[u32], tokens_max: usize) -> Guess {
        let mut drafter = Drafter::default();
        drafter.look(ids, tokens_max, PAD, |id| id < 90);
        drafter.guess().clone()
    }

    #[test]
    fn the_longest_match_wins_and_of_equal_ones_the_last() {
        let longest = guess(&[1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 2);
        assert_eq!((longest.tokens(), longest.alike()), (&[7, 9][..], 3));
        let last = guess(&[5, 2, 3, 7, 6, 2, 3, 8, 4, 2, 3], 1);
        assert_eq!((last.tokens(), last.alike()), (&[8][..], 2));
    }

    #[test]
    fn there_is_no_guess_without_two_tokens_alike() {
        for ids in [&[][..], &[4], &[4, 4], &[1, 2, 3, 4, 2], &[1, 2, 3, 1, 4]] {
            assert!(guess(ids, 8).is_empty(), "{ids:?}");
        }
    }

    #[test]
    fn a_loop_is_followed_beyond_its_end() {
        assert_eq!(guess(&[6, 1, 2, 3, 1, 2, 3, 1, 2], 7).tokens(), [3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(guess(&[4, 4, 4], 5).tokens(), [4; 5]);
    }

    #[test]
    fn a_guess_ends_before_what_may_not_be_drafted() {
        assert_eq!(guess(&[1, 2, 5, 95, 6, 1, 2], 8).tokens(), [5]);
        assert!(guess(&[1, 2, 95, 6, 1, 2], 8).is_empty());
    }

    #[test]
    fn images_lead_nowhere() {
        let ids = [1, PAD, PAD, PAD, 2, 1, PAD, PAD];
        assert!(guess(&ids, 8).is_empty());
        assert!(guess(&ids[..7], 8).is_empty());
    }

    #[test]
    fn what_is_read_bit_by_bit_is_read_as_at_once() {
        let ids: Vec<u32> = (0..400u32).map(|i| i * i % 7 + i % 3).collect();
        let mut drafter = Drafter::default();
        for end in 1..=ids.len() {
            drafter.look(&ids[..end], 4, PAD, |_| true);
            let mut fresh = Drafter::default();
            fresh.look(&ids[..end], 4, PAD, |_| true);
            assert_eq!(drafter.guess(), fresh.guess(), "after {end} tokens");
        }
        assert_eq!(drafter.earlier, {
            let mut fresh = Drafter::default();
            fresh.read(&ids, PAD);
            fresh.earlier
        });
    }

    #[test]
    fn a_guess_is_held_against_draws_until_one_differs() {
        let mut drafter = Drafter::default();
        drafter.look(&[1, 2, 3, 4, 5, 1, 2], 3, PAD, |_| true);
        assert_eq!(drafter.hear(3), Some(Outcome { alike: 2, is_hit: true }));
        assert_eq!((drafter.guess().tokens(), drafter.guess().alike()), (&[4, 5][..], 3));
        assert_eq!(drafter.hear(9), Some(Outcome { alike: 3, is_hit: false }));
        assert_eq!(drafter.hear(5), None);
    }
}
