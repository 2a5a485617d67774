//! What is asked for.

use std::fmt;

/// A command to run once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// The program and its arguments, byte for byte. The program is looked up
    /// in the guest's `PATH`, after `env` has been applied.
    pub argv: Vec<Vec<u8>>,
    /// Variables to set, a later one of the same name winning.
    pub env: Vec<(String, Vec<u8>)>,
    /// Folder to run in; relative to root's home, which is also the default.
    pub cwd: Option<Vec<u8>>,
    /// What the command reads.
    pub stdin: ExecStdin,
}

impl ExecRequest {
    /// A command with nothing set.
    pub fn new<A: Into<Vec<u8>>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// What the command finds on its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecStdin {
    /// What the ssh channel carries.
    #[default]
    Channel,
    /// End of file at once (`/dev/null`).
    Closed,
}

/// Sixteen random bytes, drawn by the caller for one call, that tell this
/// call's markers from everything else on the streams.
///
/// It keeps accidents out, not the guest: a program in the guest can read the
/// script from its parent's command line and write a marker, and has then
/// ended its own command with a status of its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

/// Writes 32 hexadecimal digits.
impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What failed before the command could be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecStage {
    /// The working folder cannot be entered.
    Cwd,
}

impl ExecStage {
    /// The word in the marker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cwd => "cwd",
        }
    }

    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"cwd" => Some(Self::Cwd),
            _ => None,
        }
    }
}
