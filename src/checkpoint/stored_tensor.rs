//! One stored tensor, read when it is asked for, in pieces, in whichever float type it is stored.

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Dtype;

use super::error::CheckpointError;
use super::tensor_file::TensorFile;

/// Elements that are read at once, by one thread.
const PIECE: usize = 1 << 20;

/// One stored tensor.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// Element type as stored.
    pub dtype: Dtype,
    /// Shape as stored.
    pub shape: &'a [usize],
    pub(super) file: &'a TensorFile,
    /// Where its little-endian elements begin in the file.
    pub(super) start: u64,
    /// How many bytes they take.
    pub(super) bytes: usize,
}

impl StoredTensor<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its elements can be read as bf16: they are stored as bf16, f16 or f32.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32)
    }

    /// The little-endian elements.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than it was.
    pub fn read(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = vec![0; self.bytes];
        self.file.read_at(&mut bytes, self.start)?;
        Ok(bytes)
    }

    /// The elements in bf16, into as many places.
    ///
    /// # Errors
    /// As [`StoredTensor::read`].
    ///
    /// # Panics
    /// Unless [`StoredTensor::is_float`].
    pub fn read_bf16(&self, values: &mut [bf16]) -> Result<(), CheckpointError> {
        assert_eq!(values.len(), self.len(), "elements of a stored tensor");
        let pieces = values.par_chunks_mut(PIECE).enumerate();
        pieces.map(|(number, values)| self.read_piece(number * PIECE, values)).collect()
    }

    /// The first element that is not finite, if there is one; no more than a piece is kept for each thread.
    ///
    /// # Errors
    /// As [`StoredTensor::read`].
    ///
    /// # Panics
    /// Unless [`StoredTensor::is_float`].
    pub fn first_not_finite(&self) -> Result<Option<usize>, CheckpointError> {
        let find = |number: usize| {
            let first = number * PIECE;
            let mut values = vec![bf16::ZERO; PIECE.min(self.len() - first)];
            self.read_piece(first, &mut values)?;
            Ok(values.iter().position(|value| !value.is_finite()).map(|place| first + place))
        };
        let found: Result<Vec<Option<usize>>, CheckpointError> =
            (0..self.len().div_ceil(PIECE)).into_par_iter().map(find).collect();
        Ok(found?.into_iter().flatten().next())
    }

    /// Whether a tensor of the same shape has other values.
    pub(super) fn differs_from(&self, other: &StoredTensor<'_>) -> Result<bool, CheckpointError> {
        if !(self.is_float() && other.is_float()) {
            return Ok(self.dtype != other.dtype || self.read()? != other.read()?);
        }
        let differs = |number: usize| {
            let first = number * PIECE;
            let mut pieces = [self, other].map(|_| vec![bf16::ZERO; PIECE.min(self.len() - first)]);
            self.read_piece(first, &mut pieces[0])?;
            other.read_piece(first, &mut pieces[1])?;
            Ok(pieces[0] != pieces[1])
        };
        let found: Result<Vec<bool>, CheckpointError> =
            (0..self.len().div_ceil(PIECE)).into_par_iter().map(differs).collect();
        Ok(found?.contains(&true))
    }

    /// The elements from `first` on.
    fn read_piece(&self, first: usize, values: &mut [bf16]) -> Result<(), CheckpointError> {
        let size = self.dtype.bitsize() / 8;
        let start = self.start + (first * size) as u64;
        if self.dtype == Dtype::BF16 {
            self.file.read_at(bytemuck::cast_slice_mut(values), start)?;
            values.iter_mut().for_each(|value| *value = bf16::from_bits(u16::from_le(value.to_bits())));
            return Ok(());
        }
        let mut bytes = vec![0; values.len() * size];
        self.file.read_at(&mut bytes, start)?;
        let halves = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
        let floats = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        match self.dtype {
            Dtype::F16 => values.iter_mut().zip(halves).for_each(|(value, half)| *value = bf16::from_f32(half)),
            Dtype::F32 => values.iter_mut().zip(floats).for_each(|(value, float)| *value = bf16::from_f32(float)),
            other => panic!("{other:?} is no element type of weights"),
        }
        Ok(())
    }
}
