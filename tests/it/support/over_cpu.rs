//! Backends for tests that hand ops on to the CPU: `delegate_ops!(Type, except Op)` implements all ops but one for a type with
//! `fn call<T>(&self, op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T`, and `delegate_ops!(Type)` all. `build.rs` writes the macro.

include!(concat!(env!("OUT_DIR"), "/delegate_ops.rs"));

pub(crate) use delegate_ops;
