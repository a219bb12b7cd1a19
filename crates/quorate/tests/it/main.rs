//! The crate as other programs use it.

mod in_process;
mod joined;
mod payment_channels;
mod snet_embedded;
mod snet_settings;
#[cfg(target_os = "linux")]
mod threads;

#[path = "../../examples/embedded.rs"]
mod embedded;
#[path = "../../examples/three_members.rs"]
mod three_members;

#[test]
fn the_example_of_an_embedded_member_runs() {
    embedded::main().expect("it runs to its end");
}

#[test]
fn the_example_of_three_members_runs() {
    three_members::main().expect("it runs to its end");
}
