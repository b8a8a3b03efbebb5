//! The one integration binary; one module per area.
mod ops;
mod row_invariance;
mod tasks;
mod row_invariance;
