//! Lepus.
