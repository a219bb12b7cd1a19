//! The models as their users see them.

mod clock;
mod machine;
mod model;
mod reference;
mod scenarios;
mod slices;
mod tree;
mod watching;
