#!/bin/sh
# Puts a machine's identity in place: names, addresses, keys. It may run any number of
# times and writes only what differs. The initramfs sources it before the guest's init
# starts; in a live guest (restored, or forked from another) it is run as a program:
#
#     banger_identity=FOLDER identity.sh
#
# It keeps to what busybox, dash and iproute2 have in common, and starts a program only
# where something has to change: under emulation each one costs milliseconds.

# shellcheck disable=SC2154 # The identity file assigns every banger_ name.

banger_root=${banger_root:-}
# shellcheck source=/dev/null
. "$banger_identity/identity"

# Reads the file $1 into $text, without starting a program. A missing file is empty.
slurp() {
    text=
    [ -f "$1" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        text="$text$line
"
    done <"$1"
}

# Makes the file $1, readable by all but $3 by its owner alone, hold the text $2.
put() {
    # A link in the root disk would be followed outside of it.
    if [ -L "$1" ]; then rm -f "$1"; fi
    slurp "$1"
    [ "$text" = "$2" ] && return 0
    if [ "$3" = private ]; then umask 077; else umask 022; fi
    if [ -e "$1" ]; then
        printf '%s' "$2" >"$1.banger-new" && mv -f "$1.banger-new" "$1"
    else
        printf '%s' "$2" >"$1"
    fi || return 1
    umask 022
}

banger_put_identity() {
    etc=$banger_root/etc
    [ -d "$etc/banger" ] || (umask 022 && mkdir -p "$etc/banger") || return 1
    [ -d "$etc/ssh" ] || (umask 022 && mkdir -p "$etc/ssh") || return 1

    put "$etc/hostname" "$banger_hostname
" public || return 1
    echo "$banger_hostname" >/proc/sys/kernel/hostname

    # What a person added to /etc/hosts stays.
    hosts=
    slurp "$etc/hosts"
    while IFS= read -r line; do
        case $line in
        '127.0.1.1'* | '') ;;
        *)
            hosts="$hosts$line
"
            ;;
        esac
    done <<LINES
$text
LINES
    [ -n "$hosts" ] || hosts='127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
'
    put "$etc/hosts" "127.0.1.1 $banger_hostname
$hosts" public || return 1

    put "$etc/machine-id" "$banger_machine_id
" public || return 1

    slurp "$banger_identity/ssh_host_ed25519_key"
    put "$etc/ssh/ssh_host_ed25519_key" "$text" private || return 1
    slurp "$banger_identity/ssh_host_ed25519_key.pub"
    put "$etc/ssh/ssh_host_ed25519_key.pub" "$text" public || return 1
    slurp "$banger_identity/authorized_keys"
    put "$etc/banger/authorized_keys" "$text" public || return 1

    # The ssh server of an image that we have made knows where the key is. Another's is told, if it
    # reads a folder of settings; if not, the key goes where every ssh server looks.
    if [ ! -e "$etc/ssh/sshd_config.d/10-banger.conf" ]; then
        key=$text
        slurp "$etc/ssh/sshd_config"
        case $text in
        *'sshd_config.d/'*)
            [ -d "$etc/ssh/sshd_config.d" ] || (umask 022 && mkdir "$etc/ssh/sshd_config.d") || return 1
            put "$etc/ssh/sshd_config.d/11-banger.conf" "# Written by banger at each boot.
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/banger/authorized_keys .ssh/authorized_keys
PermitRootLogin prohibit-password
UseDNS no
MaxSessions 500
MaxStartups 200:30:500
" public || return 1
            ;;
        *)
            home=$banger_root/root/.ssh
            [ -d "$home" ] || (umask 077 && mkdir -p "$home") || return 1
            slurp "$home/authorized_keys"
            case $text in
            *"$key"*) ;;
            *) put "$home/authorized_keys" "$text$key" private || return 1 ;;
            esac
            ;;
        esac
    fi

    # Adds to the kernel's pool; counts for nothing there, so two clones differ but nobody trusts it.
    echo "$banger_seed" >/dev/urandom

    ip link set lo up || return 1
    [ -n "$banger_address" ] || return 0
    if [ ! -e "/sys/class/net/$banger_interface" ]; then
        echo "banger: there is no network device $banger_interface"
        return 1
    fi
    ip addr replace "$banger_address" dev "$banger_interface" || return 1
    ip link set "$banger_interface" up || return 1
    if [ -n "$banger_gateway" ]; then
        ip route replace default via "$banger_gateway" || return 1
    fi
    if [ -n "$banger_dns" ]; then
        # Somebody who wrote a resolv.conf meant it.
        slurp "$etc/resolv.conf"
        case $text in
        '' | '# Written by banger'*)
            put "$etc/resolv.conf" "# Written by banger at each boot, unless this line is gone.
nameserver $banger_dns
" public || return 1
            ;;
        esac
    fi
}

banger_put_identity
