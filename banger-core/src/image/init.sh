#!/bin/busybox sh
# The first program of a guest. It loads what the disks and the network need, mounts
# the root disk, puts the machine's identity in place and hands over to the guest's
# own init. It waits for nothing: whatever is missing is missing for good, so it says
# so on the console and powers off.
#
# shellcheck disable=SC2154 # The identity file assigns every banger_ name.

say() {
    echo "banger: $*"
}

give_up() {
    say "cannot boot: $*"
    sync
    /bin/busybox poweroff -f
    # A machine that cannot power off must not run on as if it had booted.
    while :; do /bin/busybox sleep 3600; done
}

say "starting"
# The shell finds busybox's other programs by /proc/self/exe: before this line, and after
# /proc has moved, they need busybox's own name.
/bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys || give_up "the kernel has no sysfs"
mount -t devtmpfs -o nosuid,mode=0755 dev /dev || give_up "the kernel has no devtmpfs"

while read -r module; do
    insmod "/banger/modules/$module" || give_up "the module $module does not load into this kernel"
done </banger/modules/order

[ -f /banger/identity/identity ] || give_up "no identity was appended to the initramfs"
# shellcheck source=/dev/null
. /banger/identity/identity

[ -b "$banger_root_disk" ] || give_up "there is no root disk $banger_root_disk"
mount -t ext4 -o rw,noatime "$banger_root_disk" /sysroot ||
    give_up "the root disk $banger_root_disk holds no ext4 file system that can be mounted"
if [ ! -x "/sysroot$banger_init" ] && [ ! -L "/sysroot$banger_init" ]; then
    give_up "the root disk has no $banger_init"
fi

if [ -n "$banger_work_disk" ]; then
    [ -b "$banger_work_disk" ] || give_up "there is no work disk $banger_work_disk"
    mount -t ext4 -o rw,noatime "$banger_work_disk" /work ||
        give_up "the work disk $banger_work_disk holds no ext4 file system that can be mounted"
    empty=yes
    for entry in /work/* /work/.[!.]*; do
        case $entry in
        '/work/*' | '/work/.[!.]*' | /work/lost+found) ;;
        *)
            empty=no
            break
            ;;
        esac
    done
    if [ "$empty" = yes ]; then
        # A new disk becomes a home as the image has it: .profile, .bashrc and what else lies there.
        cp -a /sysroot/root/. /work/ || give_up "the home folder cannot be copied to the work disk"
        chown 0:0 /work
        chmod 0700 /work
    fi
    mkdir -p /sysroot/root
    mount --move /work /sysroot/root || give_up "the work disk cannot be mounted on /root"
fi

# shellcheck source=identity.sh
banger_root=/sysroot banger_identity=/banger/identity . /banger/identity.sh ||
    give_up "the machine's identity cannot be put in place"

# Under a monitor that ends at a restart, and knows no switching off, the one is the other.
if [ "${banger_switch_off:-}" = restart ]; then
    mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /sysroot/run
    mkdir -p /sysroot/run/systemd/system
    ln -s /lib/systemd/system/reboot.target /sysroot/run/systemd/system/poweroff.target
fi

# What systemd would mount by a unit each.
mkdir -p /dev/mqueue /dev/hugepages
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
mount -t hugetlbfs -o nosuid,nodev hugetlbfs /dev/hugepages
mount -t debugfs -o nosuid,nodev,noexec debugfs /sys/kernel/debug
mount -t tracefs -o nosuid,nodev,noexec tracefs /sys/kernel/tracing

for api in /sys /dev /proc; do
    mount --move "$api" "/sysroot$api" || give_up "the root disk has no folder $api"
done
# Only a disk that was ever grown has a size here, and only a new size costs more than reading a line.
if [ -n "$banger_work_disk" ] && [ -n "${banger_work_size:-}" ]; then
    grown=
    [ ! -f /sysroot/etc/banger/work-size ] || read -r grown </sysroot/etc/banger/work-size
    if [ "$grown" != "$banger_work_size" ]; then
        if /bin/busybox chroot /sysroot /sbin/resize2fs "$banger_work_disk"; then
            echo "$banger_work_size" >/sysroot/etc/banger/work-size
        else
            say "the file system on $banger_work_disk keeps its size: it cannot be grown from here"
        fi
    fi
fi

say "handing over to $banger_init"
exec /bin/busybox switch_root /sysroot "$banger_init"
