//! Who is served next. Whatever requests wait for (a processor to prepare them, a place in the engine, a piece of a step) is given out in one
//! order: round robin among the tenants that wait, and within a tenant by the virtual time at which each would be done if all were served at
//! once (weighted fair queueing by virtual finish time, with equal weights). So a small request passes large ones that wait, and a large
//! request cannot starve.
//!
//! A request's parts wait one after the other. Work that cannot be cut leaves a permit to small work. The engine's slots are shared out by
//! `dispatch.rs` and `slots.rs` above: where none is free, a request that holds many gives one up to one that holds fewer, and a long one to a
//! small one; its sequence is paused, and goes on with the same bits. A step keeps up to half of its prompt tokens for short prompts. Where the
//! admission queue is full, the costliest request of the largest tenant is refused, whoever came last. A body that comes to a stop gives its
//! memory and its place up when others want them; where descriptors are short, so does the longest idle connection.

mod admission_queue;
mod client;
mod queue;
mod semaphore;

pub use admission_queue::{AdmissionQueue, Place};
pub use client::Client;
pub use queue::{FairQueue, Spot};
pub use semaphore::{FairPermit, FairSemaphore};
