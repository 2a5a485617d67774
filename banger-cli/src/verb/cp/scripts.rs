//! The guest's side of a copy: what `sh` runs there. They keep to what busybox and GNU have in common,
//! but for tar's `--no-overwrite-dir`, without which a folder that is there would change its mode. Holes are
//! carried where the guest has GNU's tar, which is asked, and as zeros elsewhere.

/// Takes a file: `$1` where to, `$2` its name if that is a folder, `$3` its mode, `$4` the last 32 bytes
/// of the stream, which prove that all of it came and are cut off, `$5`: `holes` if it has some. First of all a line:
/// `holes` if a tar stream of the one file `.banger-cp-$4` is to be sent, else `whole`.
pub(super) const TAKE_FILE: &str = r#"
fail() { printf '%s\n' "$1" >&2; exit 1; }
bare() { printf '%s\n' "${1%"${1##*[!/]}"}"; }
to=${1:-.}
if [ -d "$to" ]; then
    [ -n "$2" ] || fail "$to is a folder: name a file in it"
    to=${to%/}/$2
fi
[ ! -L "$to" ] || to=$(readlink -f -- "$to") || fail "$1 is a link to nowhere"
case $to in */)
    to=$(bare "$to")
    [ ! -e "$to" ] || fail "$to is no folder"
    fail "there is no folder $to/" ;;
esac
[ ! -d "$to" ] || fail "$to is a folder"
if [ -e "$to" ] && [ ! -f "$to" ]; then fail "$to is no plain file"; fi
case $to in
*/*) beside=${to%/*}/ ;;
*) beside=./ ;;
esac
[ -d "$beside" ] || fail "there is no folder $beside"
way=whole
if [ "$5" = holes ]; then
    case $(tar --version 2>/dev/null) in *"GNU tar"*) way=holes ;; esac
fi
part=$beside.banger-cp-$4
# A signal for the whole group must not end rm.
trap 'trap "" HUP INT TERM; rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
if [ "$way" = holes ]; then
    (cd -- "$beside" && echo holes && exec tar -x -m -f - --no-same-owner ".banger-cp-$4") || exit 1
    [ -f "$part" ] || fail "the copy was cut short"
else
    : >"$part" || exit 1
    echo whole
    cat >"$part" || exit 1
    size=$(stat -c %s -- "$part") && [ "$size" -ge 32 ] && [ "$(tail -c 32 -- "$part")" = "$4" ] ||
        fail "the copy was cut short"
    truncate -s "$((size - 32))" -- "$part" || exit 1
fi
[ -z "$3" ] || chmod -- "$3" "$part" || exit 1
mv -f -- "$part" "$to"
"#;

/// Takes a folder: `$1` where to, `$2` its name if that is there; empty for what is in it. `$3`: `there`
/// if it must be. First of all a line: `holes` if the tar stream that is sent may have files with holes, else `whole`.
pub(super) const TAKE_FOLDER: &str = r#"
fail() { printf '%s\n' "$1" >&2; exit 1; }
to=${1:-.}
[ -d "$to" ] || [ ! -e "$to" ] || fail "$to is no folder"
[ -d "$to" ] || [ "$3" != there ] || fail "there is no folder $to"
if [ -d "$to" ] && [ -n "$2" ]; then to=${to%/}/$2; fi
keep=--no-overwrite-dir
if [ ! -d "$to" ]; then
    [ ! -e "$to" ] || fail "$to is no folder"
    mkdir -- "$to" 2>/dev/null || fail "cannot make the folder $to"
    keep=
fi
cd -- "$to" || exit 1
case $(tar --version 2>/dev/null) in
*"GNU tar"*) echo holes ;;
*) echo whole ;;
esac
exec tar -x -p -f - --no-same-owner $keep
"#;

/// Gives a file or a folder: `$1` which, `$2` whether a folder will do (`any`), `$3` whether holes will (`holes`).
/// First of all a line: what it is. A status of 3 means that it changed while it was read.
pub(super) const GIVE: &str = r#"
fail() { printf '%s\n' "$1" >&2; exit 1; }
bare() { printf '%s\n' "${1%"${1##*[!/]}"}"; }
pack() {
    tar -c -S -f - --format=gnu "$@"
    status=$?
    [ "$status" -ne 1 ] || exit 3
    exit "$status"
}
from=${1:-.}
gnu=
case $(tar --version 2>/dev/null) in *"GNU tar"*) gnu=yes ;; esac
if [ -d "$from" ]; then
    [ "$2" = any ] || fail "$from is a folder"
    cd -- "$from" || exit 1
    echo folder
    [ -z "$gnu" ] || pack .
    exec tar -c -f - .
fi
case $from in */)
    file=$(bare "$from")
    [ ! -e "$file" ] || fail "$file is no folder: leave out the slash at its end" ;;
esac
[ -e "$from" ] || fail "there is no file or folder $from"
[ -f "$from" ] || fail "$from is neither a file nor a folder"
mode=$(stat -L -c %a -- "$from") || exit 1
if [ "$3" = holes ] && [ -n "$gnu" ] && [ "$(($(stat -L -c '%b * %B < %s' -- "$from")))" = 1 ]; then
    echo "holes $mode"
    pack -h -P --add-file="$from"
fi
echo "file $mode" && exec cat -- "$from"
"#;

/// The status of [`GIVE`] where what it gave changed meanwhile.
pub(super) const CHANGED: i32 = 3;
