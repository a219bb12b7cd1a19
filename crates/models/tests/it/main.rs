//! The keys model as its users see it.

mod clock;
mod machine;
mod model;
mod reference;
mod scenarios;
mod slices;
mod watching;
