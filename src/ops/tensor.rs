//! A shape, an element type and storage that only its backend can look into.

use std::any::Any;

use half::bf16;

/// What a tensor's elements mean. A backend chooses how it stores each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtype {
    /// Activations: f32 on the CPU, bf16 on CUDA, f64 in the reference.
    Activation,
    /// Statistics, weight gradients, optimizer moments: f32 (f64 in the reference).
    F32,
    /// Parameters: bf16 (f64 in the reference, so that finite differences can move them a little).
    Bf16,
    /// The low 16 bits of the fp32 master weights (see [`super::adamw`]).
    I16,
    /// Indices, such as token ids and page numbers.
    I32,
    /// Pixels, and codes of moments (see [`super::adamw`]).
    U8,
}

/// Host values to upload.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// Double precision, for the reference.
    F64(&'a [f64]),
    /// Single precision; it may be stored as another [`Dtype`].
    F32(&'a [f32]),
    /// bf16, as in checkpoints.
    Bf16(&'a [bf16]),
    /// Low 16 bits of fp32 master weights.
    I16(&'a [i16]),
    /// Indices, such as token ids and page numbers.
    I32(&'a [i32]),
    /// Pixels, or codes of moments.
    U8(&'a [u8]),
}

impl Host<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Host::F64(v) => v.len(),
            Host::F32(v) => v.len(),
            Host::Bf16(v) => v.len(),
            Host::I16(v) => v.len(),
            Host::I32(v) => v.len(),
            Host::U8(v) => v.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a download goes.
#[derive(Debug)]
pub enum HostMut<'a> {
    /// Double precision, for the reference and for comparisons with it.
    F64(&'a mut [f64]),
    /// Single precision, whatever [`Dtype`] it comes from.
    F32(&'a mut [f32]),
    /// bf16, as in checkpoints.
    Bf16(&'a mut [bf16]),
    /// Low 16 bits of fp32 master weights.
    I16(&'a mut [i16]),
    /// Indices, or 32-bit words as a kernel wrote them.
    I32(&'a mut [i32]),
    /// Pixels, or codes of moments.
    U8(&'a mut [u8]),
}

/// A backend's own memory behind a [`Tensor`]; the backend downcasts it. Memory goes back to the backend on drop.
pub trait Storage: Any + Send + Sync {}

/// A dense row-major array on some backend.
pub struct Tensor {
    shape: Vec<usize>,
    dtype: Dtype,
    storage: Box<dyn Storage>,
}

impl Tensor {
    /// Wraps a backend's storage, which must hold `shape`'s product of elements.
    pub fn new(shape: &[usize], dtype: Dtype, storage: Box<dyn Storage>) -> Tensor {
        Tensor { shape: shape.to_vec(), dtype, storage }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the innermost dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// The same elements under another shape. Panics if the counts differ.
    pub fn reshape(mut self, shape: &[usize]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), self.len(), "reshape {:?} to {shape:?}", self.shape);
        self.shape = shape.to_vec();
        self
    }

    /// The storage as the backend's own type. Panics if it is another backend's.
    pub fn storage<S: Storage>(&self) -> &S {
        (&*self.storage as &dyn Any).downcast_ref().expect("tensor of another backend")
    }

    /// The storage as the backend's own type, to write. Panics if it is another backend's.
    pub fn storage_mut<S: Storage>(&mut self) -> &mut S {
        (&mut *self.storage as &mut dyn Any).downcast_mut().expect("tensor of another backend")
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {:?})", self.dtype, self.shape)
    }
}
