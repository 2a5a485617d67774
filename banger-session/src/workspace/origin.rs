//! The address that a repository came from.

/// Returns a remote's address without the user's name and password in it: a
/// guest is not to hold them.
///
/// Only `scheme://user:password@host` carries a password; in
/// `git@host:path` the name is part of the address and stays, as does the
/// name alone in `ssh://git@host/path`.
pub fn without_credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    match host.rsplit_once('@') {
        Some((user, host)) if user.contains(':') || scheme.starts_with("http") => {
            format!("{scheme}://{host}{path}")
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn passwords_stay_at_home_and_addresses_stay_usable() {
        for (given, carried) in [
            (
                "https://me:s3cret@host.example/a/b.git",
                "https://host.example/a/b.git",
            ),
            (
                "https://token@host.example/a.git",
                "https://host.example/a.git",
            ),
            (
                "https://host.example/a@b.git",
                "https://host.example/a@b.git",
            ),
            ("https://me:a@b@host.example/x", "https://host.example/x"),
            (
                "ssh://git@host.example/a.git",
                "ssh://git@host.example/a.git",
            ),
            (
                "ssh://git:pw@host.example/a.git",
                "ssh://host.example/a.git",
            ),
            ("git@host.example:a/b.git", "git@host.example:a/b.git"),
            ("/srv/git/a.git", "/srv/git/a.git"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(given), carried);
        }
    }
}
