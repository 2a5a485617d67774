# Runs in mmdebstrap, outside the tree: takes out of a Debian system what a microVM boots without.
# `systemctl is-system-running` says `running` afterwards.
set -eu
cd "$1"
units=etc/systemd/system

ln -sfn /lib/systemd/system/multi-user.target "$units/default.target"

# Each generator is a process before the first unit. fstab's stays: people add disks.
mkdir -p etc/systemd/system-generators
for generator in usr/lib/systemd/system-generators/*; do
    name=${generator##*/}
    [ "$name" = systemd-fstab-generator ] || ln -sfn /dev/null "etc/systemd/system-generators/$name"
done
: >etc/fstab

# Done by our init already, useless in a VM, or a clock of its own that wears the disk.
for unit in \
    systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service \
    systemd-remount-fs.service systemd-machine-id-commit.service systemd-firstboot.service \
    systemd-random-seed.service systemd-sysusers.service systemd-tmpfiles-setup-dev.service \
    systemd-pstore.service systemd-repart.service \
    systemd-pcrphase.service systemd-pcrphase-sysinit.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount \
    proc-sys-fs-binfmt_misc.automount \
    systemd-ask-password-console.path systemd-ask-password-wall.path \
    getty-static.service getty@.service console-getty.service \
    e2scrub_reap.service e2scrub_all.timer fstrim.timer \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
    ln -sfn /dev/null "$units/$unit"
done

# Started when somebody asks: the bus by its socket, logind by the bus (`poweroff`, `reboot` and
# `loginctl` do; masked, it would make them complain).
for service in dbus.service systemd-logind.service; do
    rm -f "$units/multi-user.target.wants/$service" "usr/lib/systemd/system/multi-user.target.wants/$service"
done

# Only disks and network devices are waited for by anything here.
mkdir "$units/systemd-udev-trigger.service.d"
cat >"$units/systemd-udev-trigger.service.d/banger.conf" <<'END'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net
END

# The network device keeps the name under which our init set it up.
mkdir -p etc/systemd/network
ln -sfn /dev/null etc/systemd/network/99-default.link

mkdir "$units/ssh.service.d"
cat >"$units/ssh.service.d/banger.conf" <<'END'
[Service]
ExecStartPre=
END
cat >etc/ssh/sshd_config.d/10-banger.conf <<'END'
# The host key and the keys that may log in come from the host at each boot.
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/banger/authorized_keys .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
SetEnv LANG=C.UTF-8
# One connection carries every command at once; many may be opened at once.
MaxSessions 500
MaxStartups 200:30:500
END
# No locale of the host's comes along: the guest has C.UTF-8 alone, and programs would warn of any other.
sed -i 's/^AcceptEnv /#&/' etc/ssh/sshd_config
rm -f etc/ssh/ssh_host_*
# Without PAM sshd takes `!` for a closed account. `*` is only no password.
sed -i 's/^root:[^:]*:/root:*:/' etc/shadow

# A root shell on the serial console. It costs nothing until somebody presses Enter: no unit waits
# for a device of udev's, and no shell starts before.
cat >"$units/banger-console.service" <<'END'
[Unit]
Description=Root shell on the serial console
After=ssh.service

[Service]
ExecStart=-/sbin/agetty --autologin root --wait-cr --noclear --keep-baud 115200,38400,9600 ttyS0 vt220
Type=idle
Restart=always
RestartSec=0
UtmpIdentifier=ttyS0
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/ttyS0
TTYReset=yes
TTYVHangup=yes
IgnoreSIGPIPE=no
SendSIGHUP=yes
END
mkdir -p "$units/multi-user.target.wants" etc/banger
ln -sfn ../banger-console.service "$units/multi-user.target.wants/banger-console.service"

# What must differ from one VM to the next.
: >etc/machine-id
rm -f etc/hostname etc/hosts etc/resolv.conf var/lib/dbus/machine-id
