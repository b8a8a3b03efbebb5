//! The one integration binary; one module per area.
mod ops;
mod row_invariance;
mod sandbox;
mod tasks;
