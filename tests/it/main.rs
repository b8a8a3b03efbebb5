//! The one integration binary; one module per area.
mod ops;
mod tasks;
mod row_invariance;
