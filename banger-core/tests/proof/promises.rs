//! `docs/promises.md` names the test of every promise; this holds it to that.

use std::path::Path;

#[test]
fn every_test_that_a_promise_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/promises.md")).unwrap();
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/promises.md")).unwrap();
    let promises = page.split("\n## What a kill does cost").next().unwrap();
    let bare: Vec<&str> = promises
        .split("\n- ")
        .skip(1)
        .filter(|promise| !promise.contains("\n  - `"))
        .collect();
    assert_eq!(bare, [] as [&str; 0]);
}
