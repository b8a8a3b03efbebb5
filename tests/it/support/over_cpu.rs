//! Backends for tests that hand nearly every op on to the CPU.

/// Implements all ops for a type with `fn call<T>(&self, op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T`; of RMSNorm, the
/// linear product and sampling, which a test may have other plans for, those that are named: `over_cpu!(Type, RmsNorm, Linear, Sample)`.
macro_rules! over_cpu {
    (@RmsNorm $backend:ty) => {
        const _: () = {
            use thyme_engine::ops::Tensor;
            use thyme_engine::ops::rms_norm::{RmsNorm, RmsNormed};

            $crate::support::over_cpu::delegate! { $backend;
                RmsNorm {
                    fn rms_norm_forward(x: &Tensor, add: Option<&Tensor>, w: &Tensor, epsilon: f32) -> RmsNormed;
                    fn rms_norm_backward(
                        dy: &Tensor, dresidual: Option<&Tensor>, h: &Tensor, w: &Tensor, rstd: &Tensor, dw: Option<&mut Tensor>
                    ) -> Tensor;
                }
            }
        };
    };
    (@Linear $backend:ty) => {
        const _: () = {
            use thyme_engine::ops::Tensor;
            use thyme_engine::ops::linear::Linear;

            $crate::support::over_cpu::delegate! { $backend;
                Linear {
                    fn linear_forward(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor;
                    fn linear_backward_input(dy: &Tensor, w: &Tensor) -> Tensor;
                    fn linear_backward_weight(dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>);
                }
            }
        };
    };
    (@Sample $backend:ty) => {
        const _: () = {
            use thyme_engine::ops::Tensor;
            use thyme_engine::ops::sample::{SamplingParams, SampledToken, Sample};

            $crate::support::over_cpu::delegate! { $backend;
                Sample {
                    fn logits(h: &Tensor, w: &Tensor) -> Tensor;
                    fn sample(logits: &Tensor, row_params: &[SamplingParams<'_>], excluded: &[u32]) -> Vec<SampledToken>;
                }
            }
        };
    };
    ($backend:ty, $($named:ident),+) => {
        $($crate::support::over_cpu::over_cpu! { @$named $backend })+
        const _: () = {
            use thyme_engine::ops::adamw::{Adamw, AdamwStep, Moment};
            use thyme_engine::ops::attention::{Attention, Heads, Keys, Packed};
            use thyme_engine::ops::copy_pages::CopyPages;
            use thyme_engine::ops::embedding::{Embedding, ImageRows};
            use thyme_engine::ops::gelu::{Gelu, GeluForm};
            use thyme_engine::ops::grad_norm::GradNorm;
            use thyme_engine::ops::layer_norm::{LayerNorm, LayerNormed};
            use thyme_engine::ops::patch_embed::{PatchEmbed, PixelScale};
            use thyme_engine::ops::random_normal::RandomNormal;
            use thyme_engine::ops::rope::{PageWrite, Rope};
            use thyme_engine::ops::rows::Rows;
            use thyme_engine::ops::swiglu::Swiglu;
            use thyme_engine::ops::token_logprob::{TokenLogprob, TokenLogprobs};
            use thyme_engine::ops::{Backend, Buffers, Dtype, Host, HostMut, Tensor};

            $crate::support::over_cpu::delegate! { $backend;
                Buffers {
                    fn name() -> &'static str;
                    fn activation_bytes() -> usize;
                    fn zeros(shape: &[usize], dtype: Dtype) -> Tensor;
                    fn upload(values: Host<'_>, shape: &[usize], dtype: Dtype) -> Tensor;
                    fn download(tensor: &Tensor, values: HostMut<'_>);
                    fn duplicate(tensor: &Tensor) -> Tensor;
                    fn addresses(tensor: &Tensor) -> std::ops::Range<u64>;
                    fn clear(tensor: &mut Tensor);
                }
                Embedding {
                    fn embedding_forward(table: &Tensor, ids: &Tensor, images: Option<ImageRows<'_>>) -> Tensor;
                    fn embedding_backward(
                        dy: &Tensor, ids: &Tensor, index: Option<&Tensor>, dtable: Option<&mut Tensor>, dimages: Option<&mut Tensor>
                    );
                }
                LayerNorm {
                    fn layer_norm_forward(
                        x: &Tensor, add: Option<&Tensor>, w: &Tensor, b: &Tensor, epsilon: f32
                    ) -> LayerNormed;
                    fn layer_norm_backward(
                        dy: &Tensor, dresidual: Option<&Tensor>, h: &Tensor, w: &Tensor, mean: &Tensor, rstd: &Tensor,
                        dwb: Option<(&mut Tensor, &mut Tensor)>
                    ) -> Tensor;
                }
                Rope {
                    fn rope_forward(qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, write: Option<PageWrite<'_>>);
                    fn rope_backward(dqkv: &mut Tensor, heads: Heads, cos_sin: &Tensor);
                }
                Attention {
                    fn attention_pages(pages: usize, heads: Heads) -> Tensor;
                    fn attention_forward(qkv: &Tensor, heads: Heads, keys: Keys<'_>) -> (Tensor, Tensor);
                    fn attention_backward(
                        d_o: &Tensor, qkv: &Tensor, o: &Tensor, lse: &Tensor, heads: Heads, segments: Packed<'_>
                    ) -> Tensor;
                }
                Swiglu {
                    fn swiglu_forward(gate_up: &Tensor) -> Tensor;
                    fn swiglu_backward(dy: &Tensor, gate_up: &Tensor) -> Tensor;
                }
                Gelu {
                    fn gelu_forward(x: &Tensor, form: GeluForm) -> Tensor;
                    fn gelu_backward(dy: &Tensor, x: &Tensor, form: GeluForm) -> Tensor;
                }
                PatchEmbed {
                    fn patch_embed_forward(pixels: &Tensor, scale: &PixelScale, w: &Tensor) -> Tensor;
                    fn patch_embed_backward(dy: &Tensor, pixels: &Tensor, scale: &PixelScale, dw: &mut Tensor);
                }
                TokenLogprob {
                    fn token_logprob_forward(
                        h: &Tensor, w: &Tensor, targets: &Tensor, temperatures: &Tensor, excluded: &[u32]
                    ) -> TokenLogprobs;
                    fn token_logprob_backward(
                        dlogprob: &Tensor, h: &Tensor, w: &Tensor, targets: &Tensor, temperatures: &Tensor, lse: &Tensor,
                        excluded: &[u32], dw: Option<&mut Tensor>
                    ) -> Tensor;
                }
                Rows {
                    fn gather_rows(x: &Tensor, index: &Tensor) -> Tensor;
                    fn gather_rows_backward(dy: &Tensor, index: &Tensor, rows: usize) -> Tensor;
                    fn concat_rows(parts: &[&Tensor]) -> Tensor;
                    fn add(x: &mut Tensor, y: &Tensor);
                }
                GradNorm {
                    fn sum_of_squares(x: &Tensor) -> f64;
                }
                Adamw {
                    fn adamw(
                        w: &mut Tensor, remainder: &mut Tensor, m: &mut Moment, v: &mut Moment, dw: &Tensor, step: &AdamwStep
                    );
                }
                CopyPages {
                    fn copy_pages(pages: &mut Tensor, pairs: &[(u32, u32)]);
                }
                RandomNormal {
                    fn random_normal(shape: &[usize], std: f32, seed: u64, stream: u64) -> Tensor;
                }
            }

            impl Backend for $backend {}
        };
    };
}

/// Hands functions on.
macro_rules! delegate {
    ($backend:ty; $($op:ident { $(fn $name:ident($($argument:ident: $type:ty),*) $(-> $output:ty)?;)* })*) => {
        $(impl $op for $backend {
            $(fn $name(&self, $($argument: $type),*) $(-> $output)? {
                self.call(stringify!($name), |cpu| cpu.$name($($argument),*))
            })*
        })*
    };
}

pub(crate) use {delegate, over_cpu};
