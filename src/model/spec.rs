//! One parameter: its shape, the checkpoint's tensors that it is made of, and where these lie in it.

use std::ops::Range;

/// What a parameter is.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// Shape: `[out, in]` or `[n]`. What the sources do not fill is padding, and zero.
    pub shape: Vec<usize>,
    /// The checkpoint tensors that it is made of, stacked by rows.
    pub sources: Vec<Source>,
    /// Columns of the sources, from the first on.
    pub source_cols: usize,
    /// The part of the model that it belongs to, for freezing.
    pub part: Part,
    /// What it does, for decay and initialisation.
    pub role: Role,
}

/// A checkpoint tensor in a parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its released name.
    pub name: String,
    /// The rows of the parameter that it is.
    pub rows: Range<usize>,
}

/// Parts that can be frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Embedding, decoder, head.
    Language,
    /// Patch embedding and blocks of the vision tower.
    Vision,
    /// The patch merger.
    Merger,
}

/// What a parameter does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A matrix: drawn at random, decayed.
    Matrix,
    /// A norm's scale: ones, not decayed.
    Scale,
    /// An offset: zeros, not decayed.
    Bias,
}

impl Spec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of columns; 1 of a vector.
    pub fn cols(&self) -> usize {
        self.len() / self.shape[0]
    }

    /// Number of elements without padding.
    pub fn stored_len(&self) -> usize {
        self.sources.iter().map(|source| source.rows.len()).sum::<usize>() * self.source_cols
    }

    /// Whether there is padding.
    pub fn is_padded(&self) -> bool {
        self.stored_len() < self.len()
    }

    /// The shape without padding.
    pub fn stored_shape(&self) -> Vec<usize> {
        let rows = self.stored_len() / self.source_cols;
        if self.shape.len() == 1 { vec![rows] } else { vec![rows, self.source_cols] }
    }

    /// Where the elements of some rows of a source are among the parameter's values, row by row.
    fn places(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (cols, source_cols) = (self.cols(), self.source_cols);
        rows.clone().map(move |row| row * cols..row * cols + source_cols)
    }

    /// The elements of a source among the parameter's values.
    pub fn source_elements<T: Copy>(&self, source: &Source, values: &[T]) -> Vec<T> {
        self.places(&source.rows).flat_map(|place| &values[place]).copied().collect()
    }

    /// Writes a source's elements among the parameter's values.
    pub fn place_source<T: Copy>(&self, source: &Source, elements: &[T], values: &mut [T]) {
        for (place, row) in self.places(&source.rows).zip(elements.chunks(self.source_cols)) {
            values[place].copy_from_slice(row);
        }
    }

    /// Values without padding as values with it.
    pub fn padded<T: Copy + Default>(&self, stored: &[T]) -> Vec<T> {
        let mut values = vec![T::default(); self.len()];
        let rows = self.sources.iter().flat_map(|source| self.places(&source.rows));
        rows.zip(stored.chunks(self.source_cols)).for_each(|(place, row)| values[place].copy_from_slice(row));
        values
    }

    /// The name for messages: the first source's.
    pub fn name(&self) -> &str {
        &self.sources[0].name
    }
}
