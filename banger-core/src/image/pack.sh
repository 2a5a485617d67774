# Runs in mmdebstrap as its last hook: makes the root file system from the tree and hands the
# kernel's parts out, into the folder $BANGER_OUT.
set -eu
tree=$1
# The folder we were started in may be one that a subordinate id cannot return to.
cd /
rm -f "$tree"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$tree"/etc/apt/apt.conf.d/99mmdebstrap
find "$tree/var/log" -type f -delete
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb "$tree"/tmp/*
cp -r "$tree/.banger/." "$BANGER_OUT/"
rm -rf "$tree/.banger"
sed -n 's/^Status: install ok installed$/x/p' "$tree/var/lib/dpkg/status" | wc -l >"$BANGER_OUT/packages"
# Bound without what is mounted below: /proc, /sys and /dev stay empty folders. The mount lives
# and dies with this `unshare`.
mkdir "$BANGER_OUT/tree"
# shellcheck disable=SC2016,SC2086 # The first are the inner shell's own; the second is a list of words.
unshare --mount sh -euc '
    mount --bind "$1" "$BANGER_OUT/tree"
    shift
    mke2fs "$@" -d "$BANGER_OUT/tree" "$BANGER_OUT/rootfs.ext4" "$BANGER_SIZE"
' sh "$tree" $BANGER_MKE2FS
rmdir "$BANGER_OUT/tree"
chmod 0444 "$BANGER_OUT/rootfs.ext4"
