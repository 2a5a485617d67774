//! Words that somebody else chose, made fit for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Says whether a character does something to a terminal, or to the order in
/// which a line is read, rather than being seen: controls (C0, DEL and C1),
/// line and paragraph separators, and what turns the direction of writing
/// ("Trojan Source", CVE-2021-42574). Joiners, which emoji and scripts need, are
/// none of them.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
        )
}

/// Returns a text with every character that is not seen spelled as Rust spells
/// it (`\u{1b}`, `\n`): one line stays one, and no terminal is told anything.
pub fn printable(text: &str) -> Cow<'_, str> {
    spelled(text, |c| {
        is_unseen(c).then(|| c.escape_default().to_string())
    })
}

/// The same for several lines: newlines stay.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let unseen = |c: char| c != '\n' && is_unseen(c);
    spelled(text, |c| unseen(c).then(|| c.escape_default().to_string()))
}

/// The same for JSON that is written already: what it allows in its strings as
/// it is, and a terminal does not, is spelled as JSON spells it.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let unseen = |c: char| !c.is_ascii_control() || c == '\u{7f}';
    spelled(json, |c| {
        (unseen(c) && is_unseen(c)).then(|| {
            let mut text = String::new();
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
            text
        })
    })
}

fn spelled(text: &str, spell: impl Fn(char) -> Option<String>) -> Cow<'_, str> {
    if !text.chars().any(|c| spell(c).is_some()) {
        return Cow::Borrowed(text);
    }
    let mut made = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match spell(c) {
            Some(spelling) => made.push_str(&spelling),
            None => made.push(c),
        }
    }
    Cow::Owned(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_something_to_a_terminal_is_spelled_and_the_rest_stays() {
        let hostile = "a\u{1b}]0;title\u{7}b\r\nc\u{9b}31md\u{202e}e\u{2028}f\u{7f}";
        let seen = printable(hostile);
        assert!(!seen.chars().any(is_unseen), "{seen:?}");
        assert_eq!(
            seen,
            "a\\u{1b}]0;title\\u{7}b\\r\\nc\\u{9b}31md\\u{202e}e\\u{2028}f\\u{7f}"
        );
        for plain in ["", "ä 漢 👩\u{200d}🚀", "a 'b' \"c\" \\ $d"] {
            assert!(matches!(printable(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(printable_lines("a\nb\tc\n"), "a\nb\\tc\n");
    }

    #[test]
    fn json_stays_the_same_value() {
        let words = "a\u{1b}\n\u{9b}\u{202e}\u{7f}\u{feff}ä";
        let json = serde_json::to_string(&[words]).unwrap();
        let seen = printable_json(&json);
        assert!(!seen.chars().any(is_unseen), "{seen}");
        let again: Vec<String> = serde_json::from_str(&seen).unwrap();
        assert_eq!(again, [words]);
    }
}
