//! The tree model as its users see it.

mod auth;
mod importing;
mod machine;
mod model;
mod past;
mod reference;
mod scenarios;
mod slices;
mod watching;
