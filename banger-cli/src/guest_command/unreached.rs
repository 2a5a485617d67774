//! Noticing that a command could not reach the internet: on a VM that reaches nothing by itself that is
//! no fault of the command's, and whoever sees its error looks in the wrong place.

/// What programs say when there is no way out: curl and git, glibc, apt, the kernel, node, busybox.
const SAID: [&str; 6] = [
    "Could not resolve host",
    "emporary failure in name resolution",
    "Temporary failure resolving",
    "Network is unreachable",
    "EAI_AGAIN",
    "bad address '",
];

/// Listens to a command's standard error as it passes.
#[derive(Debug, Default)]
pub(super) struct Unreached {
    noticed: bool,
    /// The end of what came last: a sentence may be cut anywhere.
    tail: Vec<u8>,
}

impl Unreached {
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.noticed {
            return;
        }
        self.tail.extend_from_slice(bytes);
        let heard = |said: &str| {
            let said = said.as_bytes();
            self.tail.windows(said.len()).any(|part| part == said)
        };
        self.noticed = SAID.iter().any(|said| heard(said));
        let longest = SAID.iter().map(|said| said.len()).max().unwrap_or(0);
        self.tail.drain(..self.tail.len().saturating_sub(longest));
    }

    pub(super) fn noticed(&self) -> bool {
        self.noticed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_noticed_wherever_the_sentence_is_cut() {
        let said = b"curl: (6) Could not resolve host: deb.debian.org\n";
        for cut in 0..said.len() {
            let mut unreached = Unreached::default();
            unreached.hear(&said[..cut]);
            unreached.hear(&said[cut..]);
            assert!(unreached.noticed(), "cut at {cut}");
        }
        let mut unreached = Unreached::default();
        unreached.hear(b"make: *** [Makefile:3: all] Error 2\n");
        assert!(!unreached.noticed());
    }
}
