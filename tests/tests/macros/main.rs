//! The attribute macros: what they generate compiles anywhere, and mistakes are reported in place.

mod hygiene;
mod objects;
mod ui;
