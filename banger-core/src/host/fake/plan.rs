//! What is to go wrong on a fake host, and when: its calls are counted, and one of them is the one.

use std::io;
use std::path::PathBuf;

use super::super::{FileAct, HostError};

type Result<T> = std::result::Result<T, HostError>;

/// When the host dies. Calls are counted from 1, and only those that change something count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The call's effect has not happened.
    Before(usize),
    /// The call has come half way: a write has left its temporary file, a tree is removed in part. One
    /// that the system does in a single step has not happened.
    During(usize),
    /// The call's effect has happened, and nobody learned of it.
    After(usize),
}

/// How calls fail from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call of this number does, whatever it is, and the next one works again.
    Once(usize, io::ErrorKind),
    /// From the call of this number on, all that the error forbids: a full disk still lets files be
    /// removed and renamed, a read-only one does not, and either lets processes be signalled.
    Lasting(usize, io::ErrorKind),
}

/// What a changing call needs of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Room on the disk.
    Room,
    /// Leave to change the disk.
    Change,
    /// Nothing of the disk.
    Nothing,
}

/// Whether a call comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As the call of this number.
    Whole(usize),
    /// The host dies half way.
    Half,
}

/// What is to go wrong, and what has been called.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) calls: Vec<String>,
    /// Which calls are not done in a single step.
    pub(super) in_steps: Vec<usize>,
    pub(super) crash: Option<Crash>,
    pub(super) fault: Option<Fault>,
    pub(super) dead: Option<String>,
}

impl Plan {
    /// Forgets the calls so far and makes another plan.
    pub(super) fn anew(&mut self, crash: Option<Crash>, fault: Option<Fault>) {
        *self = Plan {
            crash,
            fault,
            dead: self.dead.take(),
            ..Plan::default()
        };
    }

    pub(super) fn alive(&self) -> Result<()> {
        match &self.dead {
            None => Ok(()),
            Some(call) => Err(HostError::Died { call: call.clone() }),
        }
    }

    /// Begins a changing call.
    pub(super) fn begin(&mut self, call: &str, needs: Needs, in_steps: bool) -> Result<Way> {
        self.alive()?;
        self.calls.push(call.to_owned());
        let n = self.calls.len();
        if in_steps {
            self.in_steps.push(n);
        }
        match self.crash {
            Some(Crash::Before(at)) if at == n => return Err(self.die(call)),
            Some(Crash::During(at)) if at == n && !in_steps => return Err(self.die(call)),
            Some(Crash::During(at)) if at == n => {
                self.die(call);
                return Ok(Way::Half);
            }
            _ => {}
        }
        match self.fault {
            Some(Fault::Once(at, kind)) if at == n => {
                self.fault = None;
                Err(refused(call, kind))
            }
            Some(Fault::Lasting(at, kind)) if at <= n && forbids(kind, needs) => {
                Err(refused(call, kind))
            }
            _ => Ok(Way::Whole(n)),
        }
    }

    /// Ends a changing call, whose effect has happened.
    pub(super) fn end(&mut self, n: usize, call: &str) -> Result<()> {
        match self.crash {
            Some(Crash::After(at)) if at == n => Err(self.die(call)),
            _ => Ok(()),
        }
    }

    pub(super) fn die(&mut self, call: &str) -> HostError {
        self.dead = Some(call.to_owned());
        HostError::Died {
            call: call.to_owned(),
        }
    }
}

fn forbids(kind: io::ErrorKind, needs: Needs) -> bool {
    match needs {
        Needs::Room => true,
        Needs::Change => kind != io::ErrorKind::StorageFull,
        Needs::Nothing => false,
    }
}

fn refused(call: &str, kind: io::ErrorKind) -> HostError {
    HostError::File {
        act: FileAct::Write,
        path: PathBuf::from(call),
        source: kind.into(),
    }
}
