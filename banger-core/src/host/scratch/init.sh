# The first process of a scratch guest: furnishes its root, says so, and waits for us to let go.
# Arguments: VM id, host name, folder (holds `root`, which persists, and `mnt`, an empty place to mount on).
# It runs in namespaces of its own: nothing that it mounts is seen, or stays, outside.
# Every program that is started here costs a millisecond of each start.
set -eu
umask 022
id=$1 name=$2 folder=$3
new=$folder/mnt

# The /proc of before still counts as the host does: this is our number out there.
read -r pid _ </proc/self/stat

mount -t tmpfs -o mode=755,size=1g banger-sim "$new"
cd "$new"
mkdir -p .host dev/pts etc home mnt opt/banger-sim/bin proc root run/lock srv usr var/cache var/lib var/log
mkdir -m 1777 dev/shm tmp var/tmp
ln -s /run /run/lock var
mount --bind "$folder/root" root

mount --rbind /usr usr
for top in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$top" ]; then
        cp -P "/$top" .
    elif [ -d "/$top" ]; then
        mkdir "$top"
        mount --rbind "/$top" "$top"
    fi
done

shell=/bin/sh
[ ! -x /bin/bash ] || shell=/bin/bash
printf 'root:x:0:0:root:/root:%s\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n' "$shell" >etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group
printf '%s\n' "$name" >etc/hostname
printf '%s\n' "$id" >etc/machine-id
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >etc/hosts
printf 'passwd: files\ngroup: files\nhosts: files\n' >etc/nsswitch.conf

# What the power switches say goes to our output, where the host listens.
ln -s /proc/1/fd/1 run/banger-sim-power
printf '%s\n' "$4" >opt/banger-sim/bin/poweroff
chmod 755 opt/banger-sim/bin/poweroff
cd opt/banger-sim/bin
for switch in halt reboot shutdown systemctl; do
    ln poweroff "$switch"
done
cd "$new"

# Order matters here: a /proc can only be mounted while the host's own is in sight, and without one
# `mount --all` passes over its list and calls that success.
mount -t proc -o nosuid,nodev,noexec proc proc
pivot_root . .host
cd /

# The rest is listed first and then mounted by one program.
table=/run/banger-sim-mounts
# What programs of the host's /usr need to find their libraries and their other halves.
for part in etc/alternatives etc/ld.so.cache etc/ld.so.conf etc/ld.so.conf.d; do
    if [ -d "/.host/$part" ]; then
        mkdir "$part"
    elif [ -e "/.host/$part" ]; then
        : >"$part"
    else
        continue
    fi
    echo "/.host/$part /$part none rbind,ro" >>$table
done
for node in dev/null dev/zero dev/full dev/random dev/urandom dev/tty; do
    : >"$node"
    echo "/.host/$node /$node none bind,ro" >>$table
done
echo 'devpts /dev/pts devpts newinstance,ptmxmode=0666,mode=620' >>$table
# Whoever is root on the host owns these in the guest too: a stray `sysctl -w` would reach the host.
for part in proc/bus proc/fs proc/irq proc/sys proc/sysrq-trigger; do
    [ ! -e "/.host/$part" ] || echo "/$part /$part none bind,ro" >>$table
done
# Every start of the guest is a boot.
read -r boot </.host/proc/sys/kernel/random/uuid
echo "$boot" >run/banger-sim-boot-id
echo '/run/banger-sim-boot-id /proc/sys/kernel/random/boot_id none bind,ro' >>$table
mount --all --fstab $table
ln -s pts/ptmx /proc/self/fd dev
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
umount -l /.host
rmdir /.host
rm $table

# Everything that is the host's can be read and no more, devices' modes and owners included. A file
# system below /usr comes with it, and is named here too.
while read -r _ _ _ _ point options _; do
    case $point:$options in
    /:* | /root:* | /proc:* | /dev/pts:* | *:ro | *:ro,*) ;;
    *) mount -o remount,bind,ro "$point" ;;
    esac
done </proc/self/mountinfo

# A guest whose loopback stays down, or which keeps the host's name, is still a guest.
ip link set lo up 2>/dev/null || :
hostname "$name" 2>/dev/null || :

echo "ready $pid $shell"
# Who ignores SIGCHLD need not reap: the kernel does it for the orphans that come to us. Our input ends
# when the engine lets go of it or dies, and with the first process everything in the guest ends.
exec env --ignore-signal=CHLD cat 2>/dev/null
