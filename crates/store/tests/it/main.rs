//! The store from outside: what survives, what is detected, what comes back.

mod crash;
mod damage;
mod durability;
mod fault_disk;
mod full_disk;
mod many_bodies;
mod random_histories;
mod rewriting;
mod support;
mod transfer;
