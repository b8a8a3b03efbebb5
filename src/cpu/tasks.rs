//! Independent pieces of an op's work, on one thread or on all.

use rayon::prelude::*;

use super::PARALLEL_COST;

/// Runs `work` on every task: on all threads when `cost`, the rough number of operations of all of them, is worth it.
/// Which thread runs a task must not matter, so a task owns its part of the output.
pub(super) fn for_each<T: Send>(tasks: Vec<T>, cost: usize, work: impl Fn(T) + Sync + Send) {
    if tasks.len() < 2 || cost < PARALLEL_COST || rayon::current_num_threads() == 1 {
        tasks.into_iter().for_each(work);
    } else {
        tasks.into_par_iter().for_each(work);
    }
}

/// Cuts `values` into a piece per item of `lengths`, in order.
pub(super) fn pieces(mut values: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    lengths
        .map(|length| {
            let (piece, rest) = std::mem::take(&mut values).split_at_mut(length);
            values = rest;
            piece
        })
        .collect()
}

/// Threads for so many multiply-adds: one for small work, else all.
pub(super) fn threads_for(multiply_adds: usize) -> usize {
    if multiply_adds < 10 * PARALLEL_COST { 1 } else { rayon::current_num_threads() }
}
