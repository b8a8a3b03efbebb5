//! Sum of squares of many tensors in one launch: `kernels/grad_norm.cu`.

use super::device::{Argument, Reached};
use super::kernels::grad_norm::{GradNormTensor, PART};
use super::table::{BlockCount, address, reached};
use super::{Cuda, buffers, size, tensor};
use crate::ops::grad_norm::GradNorm;
use crate::ops::{Buffers, Dtype, HostMut, Tensor};

impl GradNorm for Cuda {
    fn sum_of_squares(&self, tensors: &[&Tensor]) -> f64 {
        let mut blocks = BlockCount::default();
        let entry = |x: &&Tensor| {
            let first_block = blocks.next(x.len().div_ceil(PART));
            GradNormTensor { x: address(Some(x)), count: x.len() as i64, first_block, unused: 0 }
        };
        let rows: Vec<GradNormTensor> = tensors.iter().filter(|x| !x.is_empty()).map(entry).collect();
        let pieces: Vec<Reached<'_>> = tensors.iter().map(|x| reached("x", x, false)).collect();
        let (table, parts) = (self.table(&rows), blocks.all());
        // An f64 is two words.
        let partial = self.empty(&[parts, 2], Dtype::I32);
        let total = self.empty(&[2], Dtype::I32);
        let table = Argument::Table("table", buffers::span(&table), &pieces);
        self.launch("grad_norm_partial", [parts, 1, 1], &[table, tensor("partial", &partial), size(rows.len())]);
        let arguments = [tensor("partial", &partial), tensor("total", &total), size(parts)];
        self.launch("grad_norm", [1, 1, 1], &arguments);
        let mut words = [0; 2];
        self.download(&total, HostMut::I32(&mut words));
        f64::from_bits(u64::from(words[1] as u32) << 32 | u64::from(words[0] as u32))
    }
}
