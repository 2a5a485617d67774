# Runs in mmdebstrap, outside the tree: unpacks the kernel's package and busybox beside the system,
# without installing them. An installed kernel brings initramfs-tools and a run of update-initramfs.
set -eu
tree=$1
parts=$tree/.banger
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$parts"
cd "$parts"
package=$(apt-cache depends --important "$BANGER_KERNEL" | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | head -n 1)
if [ -z "$package" ]; then
    echo "banger: the package $BANGER_KERNEL names no kernel" >&2
    exit 1
fi
apt-get --quiet download "$package" busybox-static
for archive in *.deb; do
    dpkg-deb -x "$archive" unpacked
    rm "$archive"
done
release=$(echo unpacked/boot/vmlinuz-*)
release=${release#unpacked/boot/vmlinuz-}
mkdir -p "$tree/usr/lib/modules" "$tree/boot"
modules=unpacked/lib/modules/$release
[ -d "$modules" ] || modules=unpacked/usr/lib/modules/$release
mv "$modules" "$tree/usr/lib/modules/"
mv "unpacked/boot/config-$release" "$tree/boot/"
mv "unpacked/boot/vmlinuz-$release" vmlinuz
busybox=unpacked/bin/busybox
[ -f "$busybox" ] || busybox=unpacked/usr/bin/busybox
mv "$busybox" busybox
rm -r unpacked
echo "$release" >release
chroot "$tree" depmod -a "$release"

# The modules without which there is no disk and no network, those that they need before them.
mkdir modules
for module in ext4 virtio_mmio virtio_blk virtio_net; do
    chroot "$tree" modprobe --set-version "$release" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    file=${path##*/}
    case $file in
    *.ko.xz) file=${file%.xz} && xz -dc "$tree$path" >"modules/$file" ;;
    *.ko.zst) file=${file%.zst} && zstd -qdc "$tree$path" >"modules/$file" ;;
    *.ko.gz) file=${file%.gz} && gzip -dc "$tree$path" >"modules/$file" ;;
    *) cp "$tree$path" "modules/$file" ;;
    esac
    echo "$file" >>module-order
done
