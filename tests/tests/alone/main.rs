//! Tests that look at their whole process or log for it: its threads, its descriptors, its memory,
//! its subscriber. Each waits for its turn.

mod churn;
mod ends;
mod logs;
mod logs_of_lapin;
mod spans;
mod tasks;
mod threads;
