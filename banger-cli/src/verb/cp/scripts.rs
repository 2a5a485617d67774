//! The guest's side of a copy: what `sh` runs there. They keep to what busybox and GNU have in common,
//! but for tar's `--no-overwrite-dir`, without which a folder that is there would change its mode.

/// Takes a file: `$1` where to, `$2` its name if that is a folder, `$3` its mode, `$4` the last 32 bytes
/// of the stream, which prove that all of it came and are cut off.
pub(super) const TAKE_FILE: &str = r#"
fail() { printf '%s\n' "$1" >&2; exit 1; }
to=${1:-.}
if [ -d "$to" ]; then
    [ -n "$2" ] || fail "$to is a folder: name a file in it"
    to=${to%/}/$2
fi
[ ! -L "$to" ] || to=$(readlink -f -- "$to") || fail "$1 is a link to nowhere"
case $to in */) fail "there is no folder $to" ;; esac
[ ! -d "$to" ] || fail "$to is a folder"
if [ -e "$to" ] && [ ! -f "$to" ]; then fail "$to is no plain file"; fi
case $to in
*/*) beside=${to%/*}/ ;;
*) beside=./ ;;
esac
[ -d "$beside" ] || fail "there is no folder $beside"
part=$beside.banger-cp-$$
# A signal for the whole group must not end rm.
trap 'trap "" HUP INT TERM; rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$part" || exit 1
size=$(stat -c %s -- "$part") && [ "$size" -ge 32 ] && [ "$(tail -c 32 -- "$part")" = "$4" ] ||
    fail "the copy was cut short"
truncate -s "$((size - 32))" -- "$part" || exit 1
[ -z "$3" ] || chmod -- "$3" "$part" || exit 1
mv -f -- "$part" "$to"
"#;

/// Takes a folder: `$1` where to, `$2` its name if that is there; empty for what is in it. `$3`: `there`
/// if it must be.
pub(super) const TAKE_FOLDER: &str = r#"
fail() { printf '%s\n' "$1" >&2; exit 1; }
to=${1:-.}
[ -d "$to" ] || [ "$3" != there ] || fail "there is no folder $to"
if [ -d "$to" ] && [ -n "$2" ]; then to=${to%/}/$2; fi
keep=--no-overwrite-dir
if [ ! -d "$to" ]; then
    [ ! -e "$to" ] || fail "$to is no folder"
    mkdir -- "$to" 2>/dev/null || fail "cannot make the folder $to"
    keep=
fi
cd -- "$to" && exec tar -x -p -f - --no-same-owner $keep
"#;

/// Gives a file or a folder: `$1` which, `$2` whether a folder will do. First of all a line: what it is.
pub(super) const GIVE: &str = r#"
fail() { printf '%s\n' "$1" >&2; exit 1; }
from=${1:-.}
if [ -d "$from" ]; then
    [ "$2" = any ] || fail "$from is a folder"
    echo folder && cd -- "$from" && exec tar -c -f - .
fi
[ -e "$from" ] || fail "there is no file or folder $from"
[ -f "$from" ] || fail "$from is neither a file nor a folder"
mode=$(stat -L -c %a -- "$from") && echo "file $mode" && exec cat -- "$from"
"#;
