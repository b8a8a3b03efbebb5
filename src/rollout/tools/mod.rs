//! The tools that ship: one file each, one line each in the registry.

pub mod python;
