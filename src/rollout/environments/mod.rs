//! The environments that ship: one file each, one line each in the registry.

pub mod think_with_code;
