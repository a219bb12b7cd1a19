//! The keys model as its users see it.

mod machine;
mod scenarios;
