//! Files of a git dir that are written by us.

/// One section of a git configuration: its name as it stands between the
/// brackets, its subsection, its values.
pub type Section<'a> = (&'a str, Option<&'a str>, Vec<(&'a str, String)>);

/// Writes a git configuration file (git-config(1), "Syntax").
pub fn config_text(sections: &[Section<'_>]) -> String {
    let mut text = String::new();
    for (name, subsection, values) in sections {
        match subsection {
            Some(subsection) => text.push_str(&format!("[{name} {}]\n", quoted(subsection))),
            None => text.push_str(&format!("[{name}]\n")),
        }
        for (key, value) in values {
            text.push_str(&format!("\t{key} = {}\n", quoted(value)));
        }
    }
    text
}

/// Reads `git config -z --get-regexp`: keys and values, a later one of the
/// same key winning. Bytes that are no UTF-8 are replaced.
pub fn parse_config(output: &[u8]) -> Vec<(String, String)> {
    let records = output.split(|&byte| byte == 0);
    let mut values: Vec<(String, String)> = Vec::new();
    for record in records.filter(|record| !record.is_empty()) {
        let text = String::from_utf8_lossy(record);
        // A key without a value stands for true.
        let (key, value) = text.split_once('\n').unwrap_or((&text, "true"));
        values.retain(|(known, _)| known != key);
        values.push((key.to_owned(), value.to_owned()));
    }
    values
}

/// Writes a path as `objects/info/alternates` takes any: quoted as in C.
pub fn quoted_path(path: &[u8]) -> String {
    let mut text = String::from('"');
    for &byte in path {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            byte => text.push_str(&format!("\\{byte:03o}")),
        }
    }
    text.push('"');
    text
}

/// Reads `git ls-files -s -z` for the paths of submodules.
pub fn parse_submodules(output: &[u8]) -> Vec<Vec<u8>> {
    let records = output.split(|&byte| byte == 0);
    let links = records.filter(|record| record.starts_with(b"160000 "));
    let paths = links.filter_map(|record| record.splitn(2, |&byte| byte == b'\t').nth(1));
    paths.map(<[u8]>::to_vec).collect()
}

/// A value between double quotes. Control characters that have no escape are
/// left out: git takes none.
fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_become_another_line() {
        let text = config_text(&[
            ("core", None, vec![("bare", "false".to_owned())]),
            (
                "remote",
                Some("a\"]\n[core"),
                vec![("url", "x\"\n[core]\n\tfsmonitor = boo\0m".to_owned())],
            ),
        ]);
        assert_eq!(
            text,
            "[core]\n\tbare = \"false\"\n[remote \"a\\\"]\\n[core\"]\n\
             \turl = \"x\\\"\\n[core]\\n\\tfsmonitor = boom\"\n"
        );
    }

    #[test]
    fn the_last_value_of_a_key_is_the_one() {
        let values = parse_config(b"user.name\nA\nB\0core.x\0user.name\nC\0");
        let expected = [("core.x", "true"), ("user.name", "C")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(values, expected);
    }

    #[test]
    fn any_path_fits_on_a_line() {
        assert_eq!(quoted_path(b"/a b\n\"\xff#"), r#""/a b\012\"\377#""#);
    }

    #[test]
    fn submodules_are_told_from_files() {
        let output = b"100644 aa 0\tfile\x00160000 bb 0\tsub\tone\0";
        assert_eq!(parse_submodules(output), [b"sub\tone".to_vec()]);
    }
}
