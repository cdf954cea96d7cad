//! Everything that is shown: lines for people, JSON for programs, progress for those who wait.

pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod progress;

pub(crate) use lines::Output;
