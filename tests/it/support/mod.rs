//! What several areas set up: folders with a small model, a server, a policy of a few thousand parameters, a backend that watches another,
//! an environment that dictates what a model says, a device without memory, pictures, an endpoint of chats, one that misbehaves, an allocator that counts,
//! rollouts made by hand.

pub mod addresses;
pub mod allocations;
pub mod chat_endpoint;
pub mod command;
pub mod dictated;
pub mod fake_judge;
pub mod golden_learner;
pub mod noise;
pub mod over_cpu;
pub mod rollouts;
pub mod server;
pub mod small_policy;
