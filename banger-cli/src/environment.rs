//! `KEY=VALUE` as it is typed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use crate::command_error::CommandError;

/// A variable for the guest's command: `KEY=VALUE`, or `KEY` for the value it has here.
///
/// The value is bytes. Whether the name is one that a shell can export is the daemon's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    name: String,
    value: Option<OsString>,
}

impl Variable {
    /// The name and the bytes to set it to, with `lookup` for those given by name only.
    ///
    /// # Errors
    ///
    /// A name without a value that is not set here.
    pub(crate) fn resolve(
        &self,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(String, Vec<u8>), CommandError> {
        let value = match &self.value {
            Some(value) => value.clone(),
            None => lookup(&self.name).ok_or_else(|| {
                CommandError::new(format!("--env {}: it is not set here", self.name))
                    .hint(format!("give it a value: --env {}=VALUE", self.name))
            })?,
        };
        Ok((self.name.clone(), value.into_vec()))
    }
}

impl TryFrom<&OsStr> for Variable {
    type Error = &'static str;

    fn try_from(given: &OsStr) -> Result<Self, Self::Error> {
        let bytes = given.as_bytes();
        let split = bytes.iter().position(|&byte| byte == b'=');
        let name = &bytes[..split.unwrap_or(bytes.len())];
        let name = std::str::from_utf8(name).map_err(|_| "a variable's name is ASCII text")?;
        if name.is_empty() {
            return Err("a variable is KEY=VALUE, or KEY for the value it has here");
        }
        Ok(Variable {
            name: name.to_owned(),
            value: split.map(|at| OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
        })
    }
}

/// A word of a VM's owner: `KEY=VALUE`, or `KEY` for an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Never empty.
    pub(crate) key: String,
    /// May be empty.
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = &'static str;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let (key, value) = given.split_once('=').unwrap_or((given, ""));
        if key.is_empty() {
            return Err("a label is KEY=VALUE");
        }
        Ok(Label {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[u8]) -> Result<(String, Vec<u8>), String> {
        let here = |name: &str| (name == "HERE").then(|| OsString::from("yes"));
        Variable::try_from(OsStr::from_bytes(given))
            .map_err(str::to_owned)?
            .resolve(here)
            .map_err(|error| error.lines()[0].1.to_owned())
    }

    #[test]
    fn a_value_is_bytes_up_to_the_end() {
        let expected = Ok(("A".to_owned(), b"x=\xff\n".to_vec()));
        assert_eq!(read(b"A=x=\xff\n"), expected);
        assert_eq!(read(b"A="), Ok(("A".to_owned(), Vec::new())));
    }

    #[test]
    fn a_bare_name_takes_the_value_it_has_here() {
        assert_eq!(read(b"HERE"), Ok(("HERE".to_owned(), b"yes".to_vec())));
        assert!(read(b"GONE").unwrap_err().contains("not set here"));
    }

    #[test]
    fn a_variable_without_a_name_is_refused() {
        assert!(read(b"=x").is_err());
        assert!(read(b"").is_err());
        assert!(read(b"\xff=x").is_err());
    }

    #[test]
    fn a_label_may_be_empty_but_not_nameless() {
        let label = |given: &str| given.parse::<Label>().map(|l| (l.key, l.value));
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
        assert!(label("=b").is_err());
    }
}
