#!/bin/sh
# The power switches of a simulated machine: systemctl, poweroff, reboot, halt and shutdown.
verb=${0##*/}
case $verb in
systemctl)
    for word in "$@"; do
        case $word in
        -*) ;;
        *)
            verb=$word
            break
            ;;
        esac
    done
    ;;
shutdown)
    verb=poweroff
    for word in "$@"; do
        case $word in
        -r | --reboot) verb=reboot ;;
        esac
    done
    ;;
esac
case $verb in
poweroff | halt) echo poweroff >/run/banger-sim-power ;;
reboot) echo reboot >/run/banger-sim-power ;;
*)
    echo "${0##*/}: a simulated machine has no services: it can power off and reboot" >&2
    exit 1
    ;;
esac
