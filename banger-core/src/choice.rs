//! What works on this host, and what `auto` picks of it. The doctor prints the same facts.

use serde::{Deserialize, Serialize};

use crate::host::Host;

/// Whether a backend works here, and why (not).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Whether it does.
    pub usable: Usable,
    /// One line: what makes it work, or what is missing.
    pub reason: String,
    /// What to do about it, where something can be done.
    pub hint: Option<String>,
}

/// Whether a backend can be used on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Usable {
    /// It works.
    Yes,
    /// It does not.
    No,
}

impl Probe {
    /// It works.
    pub fn works(reason: impl Into<String>) -> Self {
        Probe {
            usable: Usable::Yes,
            reason: reason.into(),
            hint: None,
        }
    }

    /// It does not.
    pub fn fails(reason: impl Into<String>, hint: Option<String>) -> Self {
        Probe {
            usable: Usable::No,
            reason: reason.into(),
            hint,
        }
    }

    /// Works when a program is installed.
    pub(crate) async fn needs_program(host: &dyn Host, program: &str) -> Self {
        match host.find_program(program).await {
            Some(path) => Probe::works(path.display().to_string()),
            None => {
                let missing = crate::host::HostError::ProgramMissing {
                    program: program.to_owned(),
                    searched: "the usual folders".to_owned(),
                };
                Probe::fails(missing.to_string(), missing.hint())
            }
        }
    }
}
