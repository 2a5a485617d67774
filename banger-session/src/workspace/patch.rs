//! What a patch touches, and whether it may.

use thiserror::Error;

use super::status::MalformedOutput;

/// One changed file. Paths are bytes, relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Where it is; where it was, if it was deleted.
    pub path: Vec<u8>,
    /// Where it was before it was renamed or copied.
    pub old_path: Option<Vec<u8>>,
    /// Its mode before (octal, as git knows modes); 0 if it is new.
    pub old_mode: u32,
    /// Its mode now; 0 if it is gone.
    pub new_mode: u32,
    /// The object it was; zeros if it is new.
    pub old_object: String,
    /// The object it is; zeros if it is gone, or not known.
    pub new_object: String,
    /// Lines added and removed; none of a binary file, or if nobody counted.
    pub lines: Option<(u64, u64)>,
}

impl Change {
    /// Where it was before.
    pub fn was_at(&self) -> &Vec<u8> {
        self.old_path.as_ref().unwrap_or(&self.path)
    }

    /// Whether it is, or was, a submodule.
    pub fn is_of_submodule(&self) -> bool {
        [self.old_mode, self.new_mode].contains(&MODE_SUBMODULE)
    }
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is a copy.
    Copied,
    /// It is gone.
    Deleted,
    /// Its content or its mode changed.
    Modified,
    /// It was renamed, and may have changed.
    Renamed,
    /// It is another kind of thing: a file became a symlink.
    TypeChanged,
}

/// git's mode of a symlink.
pub const MODE_SYMLINK: u32 = 0o120_000;

/// git's mode of a submodule.
pub const MODE_SUBMODULE: u32 = 0o160_000;

impl ChangeKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Added => "added",
            ChangeKind::Copied => "copied",
            ChangeKind::Deleted => "deleted",
            ChangeKind::Modified => "modified",
            ChangeKind::Renamed => "renamed",
            ChangeKind::TypeChanged => "type-changed",
        }
    }

    fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'A' => ChangeKind::Added,
            b'C' => ChangeKind::Copied,
            b'D' => ChangeKind::Deleted,
            b'M' => ChangeKind::Modified,
            b'R' => ChangeKind::Renamed,
            b'T' => ChangeKind::TypeChanged,
            _ => return None,
        })
    }

    fn has_two_paths(self) -> bool {
        matches!(self, ChangeKind::Copied | ChangeKind::Renamed)
    }
}

/// Reads `git diff --raw -z`, with or without `--numstat`.
///
/// # Errors
///
/// [`MalformedOutput`] for anything else.
pub fn parse_changes(output: &[u8]) -> Result<Vec<Change>, MalformedOutput> {
    let output = output.strip_suffix(b"\0").unwrap_or(output);
    if output.is_empty() {
        return Ok(Vec::new());
    }
    let mut changes: Vec<Change> = Vec::new();
    let mut counted = 0;
    let mut records = output.split(|&byte| byte == 0);
    while let Some(record) = records.next() {
        let malformed = || MalformedOutput {
            what: "diff",
            record: String::from_utf8_lossy(record).into_owned(),
        };
        if record.starts_with(b":") {
            let mut change = parse_raw(record).ok_or_else(malformed)?;
            change.path = records
                .next()
                .filter(is_path)
                .ok_or_else(malformed)?
                .to_vec();
            if change.kind.has_two_paths() {
                let new = records.next().filter(is_path).ok_or_else(malformed)?;
                change.old_path = Some(std::mem::replace(&mut change.path, new.to_vec()));
            }
            changes.push(change);
            continue;
        }
        // `ADDED<tab>DELETED<tab>PATH`, in the same order; of a rename without a path, which follow.
        let mut fields = record.splitn(3, |&byte| byte == b'\t');
        let (Some(added), Some(removed), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(malformed());
        };
        let change = changes.get_mut(counted).ok_or_else(malformed)?;
        counted += 1;
        let path = match path {
            [] => {
                records.next().ok_or_else(malformed)?;
                records.next().ok_or_else(malformed)?
            }
            path => path,
        };
        if path != change.path {
            return Err(malformed());
        }
        change.lines = match (added, removed) {
            (b"-", b"-") => None,
            _ => Some((
                number(added).ok_or_else(malformed)?,
                number(removed).ok_or_else(malformed)?,
            )),
        };
    }
    Ok(changes)
}

/// Reads the paths of `git apply --numstat -z`, as the patch spells them.
pub fn parse_numstat_paths(output: &[u8]) -> Vec<Vec<u8>> {
    let records = output.split(|&byte| byte == 0);
    records
        .filter_map(|record| record.splitn(3, |&byte| byte == b'\t').nth(2))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Why a path may not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadPath {
    /// It has no name, or begins with a slash.
    #[error("it is not relative to the repository")]
    NotRelative,
    /// It has a part `..`, `.` or none.
    #[error("it leads out of the repository, or could")]
    Escapes,
    /// It lies in a git dir, on this or another file system.
    #[error("it lies in git's own folder")]
    InGitDir,
}

/// Checks that a path stays in its repository and out of its git dir, also on
/// file systems that fold case or hide characters (as git's `protectHFS` and
/// `protectNTFS` do).
///
/// # Errors
///
/// [`BadPath`] if not.
pub fn check_path(path: &[u8]) -> Result<(), BadPath> {
    if path.is_empty() || path.starts_with(b"/") {
        return Err(BadPath::NotRelative);
    }
    for part in path.split(|&byte| byte == b'/') {
        if matches!(part, b"" | b"." | b"..") || part.contains(&0) {
            return Err(BadPath::Escapes);
        }
        if is_git_dir(part) {
            return Err(BadPath::InGitDir);
        }
    }
    Ok(())
}

/// Checks the target of a symlink at `path`: whether it stays in the
/// repository.
pub fn leads_out(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = path.iter().filter(|&&byte| byte == b'/').count();
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            part if is_git_dir(part) => return true,
            _ => depth += 1,
        }
    }
    false
}

/// Says why a file deserves a look before anything else is run in the
/// repository: something runs it, or acts by it, without being asked to.
pub fn runs_by_itself(path: &[u8]) -> Option<&'static str> {
    let path = String::from_utf8_lossy(path).to_ascii_lowercase();
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let inside = |wanted: &str| folder.split('/').any(|part| part == wanted);
    let below = |wanted: &str| folder == wanted || folder.starts_with(&format!("{wanted}/"));
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if [".husky", ".githooks", "githooks", "git-hooks"]
        .iter()
        .any(|hooks| inside(hooks))
        || (inside("hooks") && !name.contains('.'))
        || [
            ".pre-commit-config.yaml",
            "lefthook.yml",
            ".lefthook.yml",
            ".gitmodules",
            ".gitattributes",
        ]
        .contains(&name)
    {
        return Some("git may run it, or run something because of it");
    }
    if [
        ".github",
        ".gitlab",
        ".circleci",
        ".forgejo",
        ".gitea",
        ".ci",
        ".buildkite",
        ".woodpecker",
    ]
    .iter()
    .any(|ci| below(ci))
        || [
            ".gitlab-ci.yml",
            "jenkinsfile",
            ".travis.yml",
            "azure-pipelines.yml",
            ".drone.yml",
            "bitbucket-pipelines.yml",
            ".woodpecker.yml",
            ".cirrus.yml",
            "appveyor.yml",
        ]
        .contains(&name)
    {
        return Some("continuous integration runs it");
    }
    if [
        ".envrc",
        ".env",
        ".tool-versions",
        ".mise.toml",
        "mise.toml",
        ".exrc",
        ".nvimrc",
        ".dir-locals.el",
    ]
    .contains(&name)
        || [
            ".vscode",
            ".idea",
            ".devcontainer",
            ".claude",
            ".cursor",
            ".mise",
        ]
        .iter()
        .any(|tool| inside(tool))
        || name == ".mcp.json"
    {
        return Some("a shell, an editor or an agent acts by it on entering the folder");
    }
    if [
        "package.json",
        ".npmrc",
        ".yarnrc",
        ".yarnrc.yml",
        ".pnpmfile.cjs",
        "composer.json",
        "pyproject.toml",
        "setup.py",
        "setup.cfg",
        "conftest.py",
        "gemfile",
        "rakefile",
    ]
    .contains(&name)
        || ends(&[".gemspec", ".pth"])
    {
        return Some("a package manager or a test runner runs scripts of it");
    }
    if [
        "build.rs",
        "makefile",
        "gnumakefile",
        "cmakelists.txt",
        "configure",
        "configure.ac",
        "justfile",
        "dockerfile",
        "meson.build",
        "build.zig",
        "cargo.toml",
        "rust-toolchain",
        "rust-toolchain.toml",
        "pom.xml",
        "gradlew",
        "taskfile.yml",
        "flake.nix",
        "shell.nix",
        "default.nix",
        "tox.ini",
        "noxfile.py",
    ]
    .contains(&name)
        || ends(&[".mk", ".gradle", ".gradle.kts", ".cmake", ".sh", ".bash"])
        || inside(".cargo")
    {
        return Some("a build runs it");
    }
    None
}

fn is_git_dir(part: &[u8]) -> bool {
    // Characters that HFS+ does not see in names, and what NTFS drops at their end.
    let text = String::from_utf8_lossy(part);
    let hidden = |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let seen: String = text.chars().filter(|c| !hidden(*c)).collect();
    let seen = seen.split(':').next().unwrap_or_default();
    let seen = seen.trim_end_matches(['.', ' ']);
    seen.eq_ignore_ascii_case(".git") || seen.eq_ignore_ascii_case("git~1")
}

fn is_path(path: &&[u8]) -> bool {
    !path.is_empty()
}

/// `:OLDMODE NEWMODE OLDID NEWID STATUS[SCORE]`
fn parse_raw(record: &[u8]) -> Option<Change> {
    let text = std::str::from_utf8(record.strip_prefix(b":")?).ok()?;
    let fields: Vec<_> = text.split(' ').collect();
    let [old_mode, new_mode, old_object, new_object, status] = fields[..] else {
        return None;
    };
    let is_object =
        |id: &str| matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_object(old_object) || !is_object(new_object) {
        return None;
    }
    Some(Change {
        kind: ChangeKind::from_letter(*status.as_bytes().first()?)?,
        path: Vec::new(),
        old_path: None,
        old_mode: u32::from_str_radix(old_mode, 8).ok()?,
        new_mode: u32::from_str_radix(new_mode, 8).ok()?,
        old_object: old_object.to_owned(),
        new_object: new_object.to_owned(),
        lines: None,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const Z: &str = "0000000000000000000000000000000000000000";

    #[test]
    fn a_list_of_changes_is_read_with_its_counts() {
        let output = format!(
            ":000000 100755 {Z} {A} A\0new\n-file\0:100644 000000 {A} {Z} D\0gone\0\
             :100644 100644 {A} {A} R090\0old\0\tnew\0:100644 100644 {A} {A} M\0bin\0\
             3\t0\tnew\n-file\x000\t7\tgone\x001\t2\t\0old\0\tnew\0-\t-\tbin\0"
        );
        let changes = parse_changes(output.as_bytes()).unwrap();
        let words: Vec<_> = changes
            .iter()
            .map(|change| {
                let path = String::from_utf8_lossy(&change.path).into_owned();
                (change.kind.as_str(), path, change.lines)
            })
            .collect();
        assert_eq!(
            words,
            [
                ("added", "new\n-file".to_owned(), Some((3, 0))),
                ("deleted", "gone".to_owned(), Some((0, 7))),
                ("renamed", "\tnew".to_owned(), Some((1, 2))),
                ("modified", "bin".to_owned(), None),
            ]
        );
        assert_eq!(changes[2].old_path.as_deref(), Some(b"old".as_slice()));
        assert_eq!(changes[0].new_mode, 0o100_755);
        assert_eq!(parse_changes(b""), Ok(Vec::new()));
    }

    #[test]
    fn what_git_never_prints_is_refused() {
        for bad in [
            "x".to_owned(),
            format!(":100644 100644 {A} {A} M\0"),
            format!(":100644 100644 {A} {A} R1\0one\0"),
            format!(":100644 100644 {A} zz M\0p\0"),
            format!(":100644 100644 {A} {A} Q\0p\0"),
            format!(":100644 100644 {A} {A} M\0p\x001\t1\tother\0"),
            "1\t1\tp\0".to_owned(),
        ] {
            assert!(parse_changes(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_out_of_the_repository_or_into_its_git_dir_is_refused() {
        let table: &[(&[u8], Result<(), BadPath>)] = &[
            (b"src/main.rs", Ok(())),
            (b"-rf", Ok(())),
            (b"a \"b\"\n\xff", Ok(())),
            (b".gitignore", Ok(())),
            (b"..a/b..", Ok(())),
            (b"", Err(BadPath::NotRelative)),
            (b"/etc/passwd", Err(BadPath::NotRelative)),
            (b"..", Err(BadPath::Escapes)),
            (b"a/../../b", Err(BadPath::Escapes)),
            (b"a//b", Err(BadPath::Escapes)),
            (b"./a", Err(BadPath::Escapes)),
            (b"a/", Err(BadPath::Escapes)),
            (b".git/hooks/pre-commit", Err(BadPath::InGitDir)),
            (b"sub/.GIT/config", Err(BadPath::InGitDir)),
            (b".git./config", Err(BadPath::InGitDir)),
            (b".git /config", Err(BadPath::InGitDir)),
            (b"GIT~1/config", Err(BadPath::InGitDir)),
            (b".git::$INDEX_ALLOCATION/config", Err(BadPath::InGitDir)),
            (".g\u{200c}it/config".as_bytes(), Err(BadPath::InGitDir)),
        ];
        for (path, expected) in table {
            assert_eq!(
                check_path(path),
                *expected,
                "{:?}",
                String::from_utf8_lossy(path)
            );
        }
    }

    #[test]
    fn a_symlink_is_followed_on_paper() {
        for (path, target, out) in [
            ("a", "b", false),
            ("a/b", "../c", false),
            ("a/b", "../../c", true),
            ("a", "..", true),
            ("a", "/etc/passwd", true),
            ("a", "b/../../c", true),
            ("a", ".git/config", true),
            ("a/b/c", "../../x/../y", false),
        ] {
            assert_eq!(
                leads_out(path.as_bytes(), target.as_bytes()),
                out,
                "{path} -> {target}"
            );
        }
    }

    #[test]
    fn files_that_run_by_themselves_are_pointed_out() {
        for path in [
            ".husky/pre-commit",
            "hooks/post-merge",
            ".github/workflows/ci.yml",
            ".gitlab-ci.yml",
            "sub/.envrc",
            "build.rs",
            "crates/x/build.rs",
            "Makefile",
            "web/package.json",
            ".cargo/config.toml",
            ".vscode/tasks.json",
            "scripts/deploy.sh",
            ".gitattributes",
        ] {
            assert!(runs_by_itself(path.as_bytes()).is_some(), "{path}");
        }
        for path in [
            "src/main.rs",
            "README.md",
            "docs/hooks.md",
            "src/hooks/use.ts",
            "data/x.json",
        ] {
            assert_eq!(runs_by_itself(path.as_bytes()), None, "{path}");
        }
    }
}
