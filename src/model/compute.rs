//! Linear maps and norms by parameter id: the backend's ops with weights looked up and gradients put where they belong.

use std::sync::Arc;

use super::parameters::{Affine, Gradients, Parameters, QkNormIds};
use crate::ops::attention::Heads;
use crate::ops::qk_norm::QkNormSaved;
use crate::ops::{Backend, Tensor};

/// The residual stream between blocks: its value is `h + add`, each `[T, D]`.
#[derive(Clone, Debug)]
pub struct Residual {
    /// What has been added up.
    pub h: Arc<Tensor>,
    /// The last block's output, added by the next norm; absent at the start.
    pub add: Option<Arc<Tensor>>,
}

/// A backend and the weights to compute with.
#[derive(Clone, Copy)]
pub struct Compute<'a> {
    /// Where it is computed.
    pub backend: &'a dyn Backend,
    /// All parameters, as Bf16 tensors.
    pub weights: &'a Parameters<Tensor>,
}

/// What a norm's backward needs.
#[derive(Debug)]
pub struct NormSaved {
    /// The residual sum that was normalised, `[T, D]`.
    pub h: Arc<Tensor>,
    /// Means, for LayerNorm; F32 `[T]`.
    mean: Option<Tensor>,
    /// Reciprocals of the standard deviation, for RMSNorm of the root mean square; F32 `[T]`.
    rstd: Tensor,
}

impl Compute<'_> {
    /// `x wᵀ + b`.
    pub fn linear_forward(&self, x: &Tensor, ids: Affine) -> Tensor {
        let bias = ids.bias.map(|id| &self.weights[id]);
        self.backend.linear_forward(x, &self.weights[ids.weight], bias)
    }

    /// Adds the gradients of weight and bias where they are trained, and returns that of `x`.
    pub fn linear_backward(&self, gradients: &mut Gradients, dy: &Tensor, x: &Tensor, ids: Affine) -> Tensor {
        if let (Some(dw), db) = gradients.affine_mut(ids) {
            self.backend.linear_backward_weight(dy, x, dw, db);
        }
        self.backend.linear_backward_input(dy, &self.weights[ids.weight])
    }

    /// Normalises the query and key heads of qkv rows; what backward needs if `is_kept`.
    pub fn qk_norm_forward(
        &self,
        qkv: &mut Tensor,
        heads: Heads,
        ids: QkNormIds,
        epsilon: f32,
        is_kept: bool,
    ) -> Option<QkNormSaved> {
        let [wq, wk] = [ids.q, ids.k].map(|id| &self.weights[id]);
        self.backend.qk_norm_forward(qkv, heads, wq, wk, epsilon, is_kept)
    }

    /// Takes the gradient of qkv rows to that before the norm, and adds those of its scales where they are trained.
    pub fn qk_norm_backward(
        &self,
        gradients: &mut Gradients,
        dqkv: &mut Tensor,
        heads: Heads,
        ids: QkNormIds,
        saved: &QkNormSaved,
    ) {
        let [wq, wk] = [ids.q, ids.k].map(|id| &self.weights[id]);
        let (dwq, dwk) = gradients.two_mut(ids.q, ids.k);
        self.backend.qk_norm_backward(dqkv, heads, wq, wk, saved, dwq.zip(dwk));
    }

    /// RMSNorm, or LayerNorm where there is a bias, of the residual sum: its rows `[T, D]`, and what backward needs.
    pub fn norm_forward(&self, ids: Affine, residual: Residual, epsilon: f32) -> (Tensor, NormSaved) {
        let Residual { h, add } = residual;
        let weight = &self.weights[ids.weight];
        let (sum, y, mean, rstd) = match ids.bias {
            None => {
                let normed = self.backend.rms_norm_forward(&h, add.as_deref(), weight, epsilon);
                (normed.sum, normed.y, None, normed.rstd)
            }
            Some(bias) => {
                let bias = &self.weights[bias];
                let normed = self.backend.layer_norm_forward(&h, add.as_deref(), weight, bias, epsilon);
                (normed.sum, normed.y, Some(normed.mean), normed.rstd)
            }
        };
        (y, NormSaved { h: sum.map_or(h, Arc::new), mean, rstd })
    }

    /// The gradient of the residual sum, that which flows past the norm (`dresidual`) included.
    pub fn norm_backward(
        &self,
        gradients: &mut Gradients,
        ids: Affine,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        saved: &NormSaved,
    ) -> Tensor {
        let weight = &self.weights[ids.weight];
        let NormSaved { h, mean, rstd } = saved;
        let (dw, db) = gradients.affine_mut(ids);
        match mean {
            None => self.backend.rms_norm_backward(dy, dresidual, h, weight, rstd, dw),
            Some(mean) => self.backend.layer_norm_backward(dy, dresidual, h, weight, mean, rstd, dw.zip(db)),
        }
    }
}
