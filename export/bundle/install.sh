#!/bin/sh
# Installs from this folder, without a network: sh install.sh [FOLDER]
# FOLDER (default: ladnn-edge in the home folder) must not exist or be empty. PYTHON=/path/to/python chooses a Python.
# If anything fails, FOLDER is left as it was.
set -eu
umask 022

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

case ${1:-} in
-*) fail "usage: [PYTHON=/path/to/python] sh install.sh [FOLDER]" ;;
esac
[ $# -le 1 ] || fail "one folder is expected, $# arguments came; a folder with blanks needs quotes"
case $0 in
*/*) bundle=${0%/*} ;;
*) bundle=. ;;
esac
bundle=$(CDPATH='' cd -- "$bundle" && pwd -P)

folder=${1:-${HOME:+$HOME/ladnn-edge}}
[ -n "$folder" ] || fail "HOME is not set: give the folder, sh install.sh FOLDER"
case $folder in
/*) ;;
*) folder=$PWD/$folder ;;
esac
while [ "$folder" != "${folder%/}" ]; do folder=${folder%/}; done
case $folder in
"") fail "the root folder is not installed into: give another one, sh install.sh FOLDER" ;;
*:*) fail "$folder has a colon in it, which Python's virtual environments do not take: give another folder" ;;
esac
if [ -e "$folder" ] && { [ ! -d "$folder" ] || [ -n "$(ls -A "$folder")" ]; }; then
    fail "$folder exists and is not an empty folder: give another one (sh install.sh FOLDER), or remove it"
fi

[ -r "$bundle/SHA256SUMS" ] || fail "there is no $bundle/SHA256SUMS: unpack the whole archive and run its install.sh"
command -v sha256sum >/dev/null || fail "the command sha256sum is needed (coreutils or busybox)"
if ! sums=$(cd "$bundle" && LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null); then
    damaged=$(printf '%s\n' "$sums" | grep -v -e ': OK$' -e '^$' | cut -d : -f 1 | tr '\n' ' ' || true)
    fail "damaged or missing: ${damaged:-SHA256SUMS }-- copy the bundle again"
fi
# NAME, MACHINES, PYTHONS (the preferred one first), GLIBC
. "$bundle/bundle.conf"

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s), and the bundle is for Linux"
machine=$(uname -m)
case " $MACHINES " in
*" $machine "*) ;;
*) fail "this machine is $machine, and the bundle is for $MACHINES; make one with --machines=$machine" ;;
esac

python=
rejected=
try_python() {
    command -v "$1" >/dev/null || return 1
    problem=$("$1" "$bundle/check_python.py" "$PYTHONS" "$GLIBC" 2>/dev/null) || problem="does not run"
    [ -n "$problem" ] || return 0
    rejected="$rejected; $1 $problem"
    return 1
}
if [ -n "${PYTHON:-}" ]; then
    try_python "$PYTHON" || fail "PYTHON=$PYTHON cannot be used${rejected:-; there is no such program}; needed: $PYTHONS"
    python=$PYTHON
else
    for version in "" $PYTHONS; do
        if try_python "python${version:-3}"; then
            python=python${version:-3}
            break
        fi
    done
    [ -n "$python" ] || fail "no Python of version $PYTHONS that can be used$rejected; install one, or give PYTHON=/path/to/python"
fi

existed=no
[ -d "$folder" ] && existed=yes
undo() {
    status=$?
    [ $status -eq 0 ] && return
    cd /
    rm -rf "$folder/venv" "$folder/model" "$folder/self_test"
    rm -f "$folder/self_test.py" "$folder/README.txt" "$folder/ladnn-edge" "$folder/ladnn-edge.service"
    [ $existed = yes ] || rmdir "$folder" 2>/dev/null || true
    exit $status
}
trap undo EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

echo "installing $NAME into $folder with $python ($machine)"
mkdir -p "$folder" 2>/dev/null || fail "$folder cannot be made: give a folder that you may write to"
"$python" -I -m venv "$folder/venv" || fail "$python made no virtual environment in $folder (see above)"
# No settings of pip from outside, no cache, no network, and no wheel whose hash is not listed.
(
    cd "$bundle"
    PIP_CONFIG_FILE=/dev/null "$folder/venv/bin/python" -I -m pip --isolated --disable-pip-version-check \
        --no-cache-dir install --quiet --no-index --find-links wheels --only-binary :all: --require-hashes \
        -r requirements.txt
) || fail "the wheels were not installed (see above); nothing was changed"
for name in model self_test self_test.py README.txt ladnn-edge; do
    cp -R "$bundle/$name" "$folder/"
done
chmod -R u+w "$folder/model" "$folder/self_test" "$folder/self_test.py" "$folder/README.txt" "$folder/ladnn-edge"
chmod 755 "$folder/ladnn-edge"
# In a unit file \ and " are escaped by \, % and $ doubled; then \, & and | mean something to sed.
escaped=$(printf '%s\n' "$folder" | sed -e 's/[\\"]/\\&/g' -e 's/[%$]/&&/g' -e 's/[\\&|]/\\&/g')
sed "s|@FOLDER@|$escaped|g" "$bundle/ladnn-edge.service" >"$folder/ladnn-edge.service"

"$folder/venv/bin/python" -I "$folder/self_test.py" || fail "the self-test failed (see above); nothing was installed"
trap - EXIT HUP INT TERM

cat <<END

installed:  $folder
answer:     "$folder/ladnn-edge" FILE... --out=DIR
watch:      "$folder/ladnn-edge" --watch=DIR --out=DIR     (or the service, $folder/ladnn-edge.service)
test again: "$folder/venv/bin/python" -I "$folder/self_test.py"
read:       $folder/README.txt
END
