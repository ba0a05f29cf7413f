//! Faults of the network, of brokers and of processes, and what becomes of calls, jobs and events.

mod backlog;
mod cluster;
mod kill;
mod link;
mod neighbours;
mod node;
mod permissions;
mod process;
mod replies;
mod streams;
