//! Changed files as lines.

use banger_daemon::protocol::FileChange;

use super::carry::{counted, shown};

/// A name a line.
pub(super) fn names(files: &[FileChange]) -> String {
    let lines = files.iter().map(|file| format!("{}\n", shown(&file.path)));
    lines.collect()
}

/// What happened to each, and why some deserve a look.
pub(super) fn listed(files: &[FileChange]) -> String {
    let line = |file: &FileChange| {
        let letter = match file.change.as_str() {
            "added" => 'A',
            "copied" => 'C',
            "deleted" => 'D',
            "renamed" => 'R',
            "type-changed" => 'T',
            _ => 'M',
        };
        let look = match &file.look {
            Some(why) => format!("   <- look at it: {why}"),
            None => String::new(),
        };
        format!("{letter} {}{look}\n", moved(file))
    };
    files.iter().map(line).collect()
}

/// How many lines each gained and lost.
pub(super) fn stat(files: &[FileChange]) -> String {
    let width = files.iter().map(|file| moved(file).chars().count()).max();
    let width = width.unwrap_or(0);
    let (mut added, mut removed) = (0, 0);
    let mut text = String::new();
    for file in files {
        let count = match (file.added, file.removed) {
            (Some(more), Some(fewer)) => {
                added += more;
                removed += fewer;
                format!("+{more} -{fewer}")
            }
            _ => "binary".to_owned(),
        };
        text.push_str(&format!(" {:<width$} | {count}\n", moved(file)));
    }
    let lines = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    text.push_str(&format!(
        " {} changed, {} added, {} removed\n",
        counted(files.len(), "file", "files"),
        counted(lines(added), "line", "lines"),
        counted(lines(removed), "line", "lines"),
    ));
    text
}

fn moved(file: &FileChange) -> String {
    match &file.old_path {
        Some(old) => format!("{} -> {}", shown(old), shown(&file.path)),
        None => shown(&file.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(change: &str, path: &str, lines: Option<u64>) -> FileChange {
        FileChange {
            change: change.to_owned(),
            path: path.as_bytes().to_vec().into(),
            old_path: (change == "renamed").then(|| b"old".to_vec().into()),
            mode: None,
            added: lines,
            removed: lines,
            look: (path == "build.rs").then(|| "a build runs it".to_owned()),
        }
    }

    #[test]
    fn a_list_says_what_happened_and_what_to_look_at() {
        let files = [
            file("added", "build.rs", Some(1)),
            file("renamed", "new\n", Some(2)),
            file("modified", "logo.png", None),
        ];
        assert_eq!(
            listed(&files),
            "A build.rs   <- look at it: a build runs it\nR old -> \"new\\n\"\nM logo.png\n"
        );
        assert_eq!(names(&files), "build.rs\n\"new\\n\"\nlogo.png\n");
        assert_eq!(
            stat(&files),
            " build.rs       | +1 -1\n old -> \"new\\n\" | +2 -2\n logo.png       | binary\n \
             3 files changed, 3 lines added, 3 lines removed\n"
        );
    }
}
