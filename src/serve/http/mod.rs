//! From the network to a route: connections, access, admission, bodies, and what each route does.

pub mod access;
pub mod batch;
pub mod body;
pub mod completions;
pub mod connections;
pub mod control;
pub mod middleware;
pub mod routes;
