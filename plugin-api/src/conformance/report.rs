//! What the suite found: one verdict per behaviour.

use std::fmt;
use std::time::Duration;

/// How one behaviour came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As the contract says.
    Pass,
    /// Not as the contract says.
    Fail {
        /// What was seen instead.
        why: String,
    },
    /// Not tried.
    Skipped {
        /// The capability that the storage does not claim.
        why: String,
    },
}

/// One behaviour and how it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The behaviour, as a sentence.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// How long it took.
    pub elapsed: Duration,
}

/// All verdicts, in the order they were reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// One per behaviour.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// Whether nothing failed (what was skipped does not count).
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The verdicts that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts
            .iter()
            .filter(|verdict| matches!(verdict.outcome, Outcome::Fail { .. }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Verdict {
            name,
            outcome,
            elapsed,
        } in &self.verdicts
        {
            let (word, why) = match outcome {
                Outcome::Pass => ("pass", ""),
                Outcome::Fail { why } => ("FAIL", why.as_str()),
                Outcome::Skipped { why } => ("skip", why.as_str()),
            };
            let colon = if why.is_empty() { "" } else { ": " };
            writeln!(
                formatter,
                "{word}  {:>6} ms  {name}{colon}{why}",
                elapsed.as_millis()
            )?;
        }
        Ok(())
    }
}
