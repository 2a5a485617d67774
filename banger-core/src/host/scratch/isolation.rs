//! Why a system gives no namespaces, and what to do about it.

use std::fs;

/// What the kernel's settings say; none where it has no such setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// `user.max_user_namespaces`.
    pub(super) most: Option<u64>,
    /// Debian's `kernel.unprivileged_userns_clone`.
    pub(super) clone: Option<u64>,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    pub(super) apparmor: Option<u64>,
    /// Whether we are root.
    pub(super) root: bool,
}

impl Settings {
    pub(super) fn read() -> Self {
        let setting = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            text.trim().parse().ok()
        };
        Settings {
            most: setting("user/max_user_namespaces"),
            clone: setting("kernel/unprivileged_userns_clone"),
            apparmor: setting("kernel/apparmor_restrict_unprivileged_userns"),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

/// Returns what the reader of a refusal can do.
pub(super) fn next_step(settings: &Settings) -> &'static str {
    match settings {
        Settings { most: Some(0), .. } => {
            "allow some: sysctl user.max_user_namespaces=10000 (as root)"
        }
        Settings { root: true, .. } => {
            "in a container, start it with --privileged, or run this outside of one"
        }
        Settings { clone: Some(0), .. } => {
            "run as root, or allow it: sysctl kernel.unprivileged_userns_clone=1 (as root)"
        }
        Settings {
            apparmor: Some(1..),
            ..
        } => {
            "run as root, or allow it: sysctl kernel.apparmor_restrict_unprivileged_userns=0 (as root)"
        }
        _ => "run as root; in a container, start it with --privileged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_setting_that_is_in_the_way() {
        let open = Settings {
            most: Some(9999),
            clone: Some(1),
            apparmor: Some(0),
            root: false,
        };
        let cases = [
            (
                Settings {
                    most: Some(0),
                    root: true,
                    ..open
                },
                "max_user_namespaces",
            ),
            (
                Settings {
                    clone: Some(0),
                    ..open
                },
                "unprivileged_userns_clone",
            ),
            (
                Settings {
                    apparmor: Some(1),
                    ..open
                },
                "apparmor",
            ),
            (
                Settings {
                    clone: Some(0),
                    root: true,
                    ..open
                },
                "container",
            ),
            (open, "run as root"),
        ];
        for (settings, word) in cases {
            let step = next_step(&settings);
            assert!(step.contains(word), "{settings:?}: {step}");
        }
    }
}
