//! A guest's own end: everything written, whatever its programs do.
//!
//! ```text
//! sync → a guard is left → the guest's own power-off ─┬─ it ends: all is well
//!                                                     ├─ its init waits for stragglers: they are killed after 5 s
//!                                                     └─ the limit: sync, read-only, off by the kernel's own switch
//! ```
//!
//! systemd gives a program that ignores TERM 90 s, longer than anybody waits for a stop; and then whoever ends the
//! machine from outside loses what its kernel has not written. The guard ends it from within instead. SysRq `u`
//! (Documentation/admin-guide/sysrq.rst) rather than `fsfreeze`: it needs no list of mounts and no program, it is there
//! in a guest without util-linux, and whoever writes on is told so (EROFS) instead of being held.

use std::time::Duration;

/// How a guest's kernel ends its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchOffWord {
    /// By switching it off.
    PowerOff,
    /// By restarting it, for a monitor that ends at that.
    Restart,
}

/// Generates a script that makes a guest end itself with everything on its disks, and returns at once. After `limit`
/// (whole seconds, at least one) a guard in the guest writes all, mounts all read-only and ends the machine.
///
/// The guard needs bash and root; a guest without has only its own power-off. It is named `@…`, which systemd's last
/// killing spares (<https://systemd.io/ROOT_STORAGE_DAEMONS/>), and is moved out of the session that systemd ends
/// before that.
pub fn power_off_script(limit: Duration, word: SwitchOffWord) -> Vec<u8> {
    let key = match word {
        SwitchOffWord::PowerOff => 'o',
        SwitchOffWord::Restart => 'b',
    };
    SCRIPT
        .replace("@LIMIT@", &limit.as_secs().max(1).to_string())
        .replace("@KEY@", &key.to_string())
        .into_bytes()
}

/// `systemctl start poweroff.target` by its name, because `systemctl poweroff` would first start logind and ask it: a
/// second and a half.
const SCRIPT: &str = r#"banger_guard='
cd /
echo "$$" 2>/dev/null >/sys/fs/cgroup/cgroup.procs
seconds=0
final=0
while [ "$seconds" -lt @LIMIT@ ]; do
    sleep 1
    seconds=$((seconds + 1))
    read -r init </proc/1/comm
    if [ "$init" = systemd-shutdow ]; then
        final=$((final + 1))
        if [ "$final" -eq 5 ]; then kill -KILL -1; fi
    fi
done
writable() {
    while read -r device _ _ options _; do
        case $device:$options in /dev/*:rw | /dev/*:rw,*) return 0 ;; esac
    done </proc/mounts
    return 1
}
sync
echo u >/proc/sysrq-trigger
seconds=0
while [ "$seconds" -lt 60 ] && writable; do
    sleep 1
    seconds=$((seconds + 1))
done
sync
echo @KEY@ >/proc/sysrq-trigger
'
if [ -w /proc/sysrq-trigger ] && command -v bash >/dev/null; then
    setsid bash -c 'exec -a @banger-guard bash -c "$1"' bash "$banger_guard" </dev/null >/dev/null 2>&1 &
fi
sync
systemctl --no-block start poweroff.target 2>/dev/null || poweroff
"#;
