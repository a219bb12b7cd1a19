//! The store from outside: what survives, what is detected, what comes back.

mod durability;
mod support;
