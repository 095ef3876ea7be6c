//! The one room with `unsafe`: what neither the standard library nor `nix` offers as a safe call.
//!
//! Each wrapper is safe to call with any arguments. Nothing here decides anything.

mod file;
mod inherited;
mod namespace;
mod process;
mod sharing;
mod socket;
mod spawn;

pub use file::{attach_loop_device, extended_attribute, free_loop_device};
pub use inherited::reset_scheduling;
pub use namespace::{Cloned, attach_mount, clone_mount, clone_sibling, idmap_mount, restrict_mounts};
pub use process::{
    default_sigchld, duplicate, forget_code, fork_alone, join_new_session_keyring, limit_open_files,
    pidfd_open, pidfd_signal, release_free_memory, reset_signals, seal_inherited_descriptors,
    set_window_size, share_allocator, take_terminal, watch, window_size,
};
pub use sharing::{Sleeper, start_sharing};
pub use socket::{
    Descriptors, interface_index, peer_groups, receive_descriptors, receive_with_sender, set_netlink_option,
};
pub use spawn::{Spawn, SpawnStdio, spawn};
