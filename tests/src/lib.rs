//! Test kit: a hermetic place to run the real program in, trees to back up, a strict comparison of trees, and storages that misbehave.
//!
//! It holds no tests; those are in `tests/`, one file for each kind of promise.

pub mod built;
pub mod engine;
pub mod faulty;
pub mod http_message;
pub mod http_proxy;
pub mod image;
pub mod lab;
pub mod large_index;
pub mod mount;
pub mod program;
pub mod proxy;
pub mod random;
pub mod s3_fake;
pub mod s3_server;
pub mod sshd;
pub mod terminal;
pub mod tls_front;
pub mod tree;
pub mod wait;
pub mod watched;

pub use image::{Image, assert_same};
pub use lab::{Lab, Output, Run};
pub use tree::{names_below, text};
pub use wait::{soon, wait_until};
