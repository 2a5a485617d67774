//! What is going on, told while it goes on.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A part of a verb that takes time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// A stable word for programs: `image`, `disk`, `network`, `vmm`, `kernel`, `init`, `ssh`, …
    pub name: String,
    /// What a person reads.
    pub text: String,
}

impl Stage {
    /// Makes a stage of its word and its text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Stage {
            name: name.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Somebody who wants to hear of stages. Called in order, from any thread; it must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Stage) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Calls back at the beginning of every stage.
    pub fn new(listener: impl Fn(Stage) + Send + Sync + 'static) -> Self {
        Progress(Arc::new(listener))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Progress::new(|_| {})
    }

    pub(crate) fn tell(&self, name: &str, text: impl Into<String>) {
        let stage = Stage::new(name, text);
        tracing::debug!(stage = %stage.name, "{}", stage.text);
        (self.0)(stage);
    }
}
