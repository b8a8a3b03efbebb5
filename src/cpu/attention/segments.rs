//! Segments of packed rows: which rows see each other, and what comes before them.

use super::super::values;
use crate::ops::attention::{Bounds, Packed};

/// Rows that see each other, and what comes before them.
pub(super) struct Segment {
    /// First and end row.
    pub(super) rows: (usize, usize),
    /// The segment that comes before.
    pub(super) prefix: Option<usize>,
    /// That segment's rows; empty where there is none.
    prefix_rows: (usize, usize),
}

impl Segment {
    #[inline]
    pub(super) fn queries(&self) -> usize {
        self.rows.1 - self.rows.0
    }

    #[inline]
    pub(super) fn prefix_len(&self) -> usize {
        self.prefix_rows.1 - self.prefix_rows.0
    }

    /// Keys that its last row sees; none where it has no rows.
    #[inline]
    pub(super) fn keys(&self) -> usize {
        if self.queries() == 0 { 0 } else { self.prefix_len() + self.queries() }
    }

    /// The row at a position of the sequence.
    #[inline]
    pub(super) fn row(&self, position: usize) -> usize {
        let prefix = self.prefix_len();
        if position < prefix { self.prefix_rows.0 + position } else { self.rows.0 + position - prefix }
    }
}

/// The segments of `tokens` packed rows.
pub(super) fn segments_of(packed: Packed<'_>, tokens: usize) -> Vec<Segment> {
    let bounds = bounds_of(packed.bounds, tokens);
    let prefixes: Option<&[i32]> = packed.prefixes.map(values);
    assert!(
        prefixes.is_none_or(|p| p.len() + 1 == bounds.len()),
        "attention: prefixes {prefixes:?}, bounds {bounds:?}"
    );
    let segment = |i: usize| {
        let prefix = prefixes.and_then(|prefixes| usize::try_from(prefixes[i]).ok());
        let has_none = |prefix: usize| prefixes.is_none_or(|prefixes| prefixes[prefix] < 0);
        assert!(
            prefix.is_none_or(|prefix| prefix < i && has_none(prefix)),
            "attention: the prefix {prefix:?} of segment {i} must come before it and have none"
        );
        Segment {
            rows: (bounds[i], bounds[i + 1]),
            prefix,
            prefix_rows: prefix.map_or((0, 0), |prefix| (bounds[prefix], bounds[prefix + 1])),
        }
    };
    (0..bounds.len() - 1).map(segment).collect()
}

/// Where each of the sequences that stand in `tokens` rows begins, and where the last ends.
pub(super) fn bounds_of(bounds: &Bounds, tokens: usize) -> Vec<usize> {
    let bounds: Vec<usize> = values::<i32>(&bounds.rows).iter().map(|&bound| bound as usize).collect();
    assert!(
        bounds.first() == Some(&0) && bounds.last() == Some(&tokens) && bounds.is_sorted(),
        "attention: bounds {bounds:?} for {tokens} rows"
    );
    bounds
}
