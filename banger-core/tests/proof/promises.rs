//! `docs/promises.md` and `docs/security.md` name the test of every promise; this holds them to that.

use std::path::Path;

#[test]
fn every_test_that_a_promise_names_is_there() {
    for page in ["docs/promises.md", "docs/security.md"] {
        names_tests_that_are_there(page);
    }
}

fn names_tests_that_are_there(page: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join(page)).unwrap();
    let mut named = 0;
    let mut missing = Vec::new();
    for line in page.lines() {
        let Some((file, test)) = line
            .trim()
            .strip_prefix("- `")
            .and_then(|l| l.split_once("`: `"))
        else {
            continue;
        };
        named += 1;
        let test = test.trim_end_matches('`');
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        // A function of this name, which is a test or handed to the macro that makes tests of it.
        let is_test = text.match_indices(&format!("fn {test}(")).any(|(at, _)| {
            let before = text[..at].rfind("\n\n").map_or("", |from| &text[from..at]);
            before.contains("#[test]") || before.contains("#[tokio::test")
        });
        if !is_test && !text.contains(&format!("    {test},\n")) {
            missing.push(format!("{file}: {test}"));
        }
    }
    assert_eq!(missing, [] as [&str; 0]);
    assert!(named > 20, "the page is read: {named}");
}

#[test]
fn every_promise_names_a_test() {
    for (page, end) in [
        ("docs/promises.md", "\n## What a kill does cost"),
        ("docs/security.md", "\n## What is not promised"),
    ] {
        names_a_test_each(page, end);
    }
}

fn names_a_test_each(page: &str, end: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join(page)).unwrap();
    let promises = page.split(end).next().unwrap();
    let bare: Vec<&str> = promises
        .split("\n- ")
        .skip(1)
        .filter(|promise| !promise.contains("\n  - `"))
        .collect();
    assert_eq!(bare, [] as [&str; 0]);
}
