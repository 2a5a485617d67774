//! A guest's end. It is never run here: it would end this machine.

use std::time::Duration;

use banger_session::{SwitchOffWord, power_off_script};

use crate::shell::{Shell, shellcheck};

#[test]
fn every_shell_reads_how_a_guest_is_ended_and_shellcheck_has_nothing_to_say() {
    for (word, key) in [
        (SwitchOffWord::PowerOff, "o"),
        (SwitchOffWord::Restart, "b"),
    ] {
        let script = power_off_script(Duration::from_millis(200), word);
        shellcheck(&script);
        for shell in Shell::all() {
            shell.check_syntax(&script);
        }
        let text = String::from_utf8(script).unwrap();
        let (guard, _) = text.split_once("\n'\n").unwrap();
        let guard = guard.strip_prefix("banger_guard='").unwrap();
        shellcheck(guard.as_bytes());
        assert!(guard.contains("[ \"$seconds\" -lt 1 ]"), "{guard}");
        assert!(
            guard.ends_with(&format!("echo {key} >/proc/sysrq-trigger")),
            "{guard}"
        );
    }
}
