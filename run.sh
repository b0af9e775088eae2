#!/bin/sh
# segnl's set-up and its commands on any Linux or macOS, POSIX sh only: ./run.sh help
#
# The set-up makes .venv once. What it promises, each shown by tests/test_setup.py:
#   done        .venv/.segnl-stamp, written last and atomically, names what .venv was made from; checking it takes milliseconds
#   killed      a .venv that is being made holds .segnl-building; the next run throws it away and makes another
#   two at once one works, the other waits; a dead holder keeps no lock, an orphaned installer does until it ends
#   yours       a .venv made by another hand is added to or moved aside, never deleted
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
here=$(pwd)
venv=$root/.venv
state=$root/.segnl-setup
lock=$state/lock
stamp=$venv/.segnl-stamp
building=$venv/.segnl-building
child=

usage() {
    cat <<'USAGE'
usage: ./run.sh COMMAND [ARGUMENTS]
  setup             make .venv and install segnl into it; every other command does so by itself when needed
  demo              a small street data set, every head trained on it and compared, one page to look at
  test [ARGS]       the tests; ARGS go to pytest
  lint              ruff check and ruff format --check
  types             mypy
  bench [NAME ...]  list the benchmarks, or run benchmarks/NAME.py
  calibrate [ARGS]  how often the intervals of compare hold the truth, on simulated studies; makes docs/statistics.md
  extra NAME        optional packages into .venv: export (ONNX), watch (TensorBoard), browser (playwright)
  segnl ARGS        the command line: ./run.sh segnl train --config FILE
  python ARGS       the environment's Python: ./run.sh python train.py --config FILE
settings: SEGNL_PYTHON=FILE chooses the Python (>= 3.11); SEGNL_INSTALLER=pip leaves uv out
USAGE
}

say() { printf 'setup: %s\n' "$*" >&2; }

die() { # 6 is segnl's exit code for the machine
    say "$*"
    exit 6
}

# ---- what is there -----------------------------------------------------------------------------------------------------

fingerprint() { # one line that changes with the requirements, the Python or the checkout's place
    version=$("$venv/bin/python" -I -S -c 'import sys; print(sys.version.split()[0])' 2>/dev/null) || return 1
    sum=$(cd "$root" && cksum requirements.txt requirements-dev.txt pyproject.toml | cksum) || return 1
    printf 'python %s, requirements %s, in %s\n' "$version" "${sum%% *}" "$root"
}

is_done() {
    [ -f "$stamp" ] && [ ! -e "$building" ] && wanted=$(fingerprint) && [ "$(cat "$stamp")" = "$wanted" ]
}

is_usable() { # a whole environment of this checkout and of a Python that serves, only perhaps of older requirements
    [ -f "$venv/pyvenv.cfg" ] && [ ! -e "$building" ] && serves "$venv/bin/python" || return 1
    [ ! -f "$stamp" ] || case $(cat "$stamp") in *", in $root") ;; *) return 1 ;; esac
}

serves() {
    "$1" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() { # sets `python`
    if [ -n "${SEGNL_PYTHON:-}" ]; then
        python=$SEGNL_PYTHON
        if serves "$python"; then return 0; fi
        die "SEGNL_PYTHON is $python, which does not run or is older than 3.11; give the path of a Python >= 3.11"
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        python=$(command -v "$name" 2>/dev/null) || continue
        # Apple's /usr/bin/python3 opens a window while the command line tools are missing; a set-up asks nothing.
        if [ "$python" = /usr/bin/python3 ] && [ "$(uname)" = Darwin ]; then xcode-select -p >/dev/null 2>&1 || continue; fi
        if serves "$python"; then return 0; fi
    done
    die "no Python 3.11 or newer on PATH; install one (apt install python3 python3-venv, or brew install python) and run this again"
}

# ---- one at a time -----------------------------------------------------------------------------------------------------
# The lock is a directory; a process at work has a file there named by its PID that holds the time of its birth, so that a
# number used again after a crash or in the next container is not taken for the holder. Announce first, then look for
# others: of two, at least one sees the other, whatever the timing. Nobody ever removes a living process's file.

birth_of() { # nothing when process $1 does not live (a zombie does not)
    if [ -r /proc/self/stat ]; then
        line='' boot=''
        { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
        { read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || :
        # shellcheck disable=SC2086  # split into fields: the 20th after the name is the start, in ticks since the boot
        set -- ${line##*) }
        case ${1:-Z} in [ZX]) return 0 ;; esac
        shift 19
        echo "$1 $boot"
    elif command -v ps >/dev/null 2>&1; then
        case $(ps -o stat= -p "$1" 2>/dev/null) in Z* | '') return 0 ;; esac
        TZ=UTC LC_ALL=C ps -o lstart= -p "$1" 2>/dev/null || return 0
    elif kill -0 "$1" 2>/dev/null; then
        echo alive
    fi
}

announce() {
    mkdir -p "$lock" || die "$state cannot be written; make the folder of segnl writable"
    birth_of "$1" >"$lock/.new.$$" && mv -f "$lock/.new.$$" "$lock/$1"
}

withdraw() { rm -f "$lock/$1"; }

other_holder() { # prints the PID of a living process in the lock that is not this one
    for entry in "$lock"/*; do
        pid=${entry##*/}
        case $pid in "$$" | *[!0-9]*) continue ;; esac
        born=$(cat "$entry" 2>/dev/null) || continue
        if [ -n "$born" ] && [ "$born" = "$(birth_of "$pid")" ]; then
            echo "$pid"
            return 0
        fi
        rm -f "$entry"
    done
    return 1
}

take_lock() {
    told=
    while :; do
        if ! holder=$(other_holder); then
            announce "$$"
            holder=$(other_holder) || return 0
        fi
        [ "$holder" -gt "$$" ] || withdraw "$$" # of several that came at once the lowest number keeps its file
        [ -n "$told" ] || say "process $holder is setting up here already; waiting for it to end"
        told=yes
        sleep 1
        if is_done; then return 0; fi
    done
}

# shellcheck disable=SC2329  # called by a trap
leave() {
    [ -z "$child" ] || { kill "$child" 2>/dev/null && wait "$child" 2>/dev/null; } || :
    [ -z "$child" ] || withdraw "$child"
    withdraw "$$"
}

attend() { # runs a command that asks nothing, named in the lock: it may outlive a killed run.sh
    (
        unset PYTHONHOME PYTHONPATH VIRTUAL_ENV UV_SYSTEM_PYTHON PIP_TARGET PIP_PREFIX
        export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
        # Before the command begins, so that none ever runs unnamed; $$ would be run.sh's own number.
        announce "$(exec sh -c 'echo "$PPID"')"
        exec "$@"
    ) </dev/null >&2 &
    child=$!
    status=0
    wait "$child" || status=$?
    withdraw "$child"
    child=
    return "$status"
}

# ---- making it ---------------------------------------------------------------------------------------------------------

discard() { # a rename first: a deletion killed half way must not leave something that looks whole
    [ -e "$1" ] || [ -L "$1" ] || return 0
    trash=$state/trash.$$.$(date +%s)
    mkdir -p "$trash" && mv "$1" "$trash/" && rm -rf "$trash"
}

clear_venv() {
    if [ -e "$stamp" ] || [ -e "$building" ]; then
        discard "$venv"
    elif [ -e "$venv" ] && ! rmdir "$venv" 2>/dev/null; then
        aside=$venv.aside.$(date +%Y%m%d-%H%M%S)
        mv "$venv" "$aside" && say "the .venv that was here does not serve; moved to ${aside##*/}"
    fi
}

find_uv() { # sets `uv`: PATH's, or one of our own beside the project environment; empty when there is none
    uv=
    [ "${SEGNL_INSTALLER:-uv}" = uv ] || return 0
    if uv=$(command -v uv 2>/dev/null) && "$uv" --version >/dev/null 2>&1; then return 0; fi
    uv=$state/uv/bin/uv
    if "$uv" --version >/dev/null 2>&1; then return 0; fi
    discard "$state/uv"
    say "no uv on PATH; putting one into .segnl-setup/uv"
    if attend "$python" -m venv "$state/uv" && attend "$state/uv/bin/python" -m pip install --quiet uv &&
        "$uv" --version >/dev/null 2>&1; then return 0; fi
    uv=
}

install() { # $1: uv or pip; the rest: what to install
    how=$1
    shift
    case $how in
    uv) attend "$uv" pip install --python "$venv/bin/python" "$@" ;;
    pip)
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 || attend "$venv/bin/python" -m ensurepip || return 1
        attend "$venv/bin/python" -m pip install --no-input "$@"
        ;;
    esac
}

fill() { # $1: uv or pip
    say "installing requirements.txt, requirements-dev.txt and segnl into .venv with $1"
    install "$1" -r requirements.txt -r requirements-dev.txt -e . || return 1
    # opencv-python and opencv-python-headless write the same cv2/ folder, so they must be of one version.
    opencv=$("$venv/bin/python" -I -c '
from importlib.metadata import version
found = {version("opencv-python"), version("opencv-python-headless")}
if len(found) > 1:
    print(min(found, key=lambda text: [int(part) for part in text.split(".")]))
') || return 1
    [ -z "$opencv" ] ||
        install "$1" --force-reinstall --no-deps "opencv-python==$opencv" "opencv-python-headless==$opencv" || return 1
    verify
}

verify() {
    say "verifying by an import (the first one takes a while)"
    attend env NO_ALBUMENTATIONS_UPDATE=1 "$venv/bin/python" -I -c '
from importlib.metadata import version
import torch, torchvision, cv2, albumentations, cityscapesscripts, segnl
gui, headless = version("opencv-python"), version("opencv-python-headless")
if gui.split(".")[:3] != headless.split(".")[:3]:
    raise SystemExit(f"opencv-python {gui} and opencv-python-headless {headless} overwrite one another: install one version of both")
print(f"setup: torch {torch.__version__}, torchvision {torchvision.__version__}, opencv {gui}, albumentations {albumentations.__version__}")
'
}

make_fresh() { # $1: uv or pip
    [ "$1" != uv ] || [ -n "$uv" ] || return 1
    clear_venv || return 1
    # The mark is inside before .venv has its name, so that there is no moment at which a kill leaves an unmarked half.
    rm -rf "$state/new" && mkdir -p "$state/new" && : >"$state/new/.segnl-building" &&
        [ ! -e "$venv" ] && mv "$state/new" "$venv" || return 1
    say "making .venv with $python"
    case $1 in
    uv) attend "$uv" venv --quiet --allow-existing --no-project --python "$python" "$venv" || return 1 ;;
    pip) attend "$python" -m venv "$venv" || return 1 ;;
    esac
    fill "$1" || { say "$1 did not manage it"; return 1; }
}

update() { # what is there, brought up to date; spares a whole environment when only a line of the requirements changed
    is_usable || return 1
    was_ours=; [ ! -e "$stamp" ] || was_ours=yes
    [ -z "$was_ours" ] || : >"$building"
    for how in uv pip; do
        [ "$how" != uv ] || [ -n "$uv" ] || continue
        if fill "$how"; then return 0; fi
    done
    verify >/dev/null 2>&1 || return 1
    [ -z "$was_ours" ] || rm -f "$building"
    die "the requirements changed and could not be installed (the lines above say why); .venv stays as it was. Without a network?"
}

make_it() {
    rm -rf "$state"/trash.*
    find_python
    say "this happens once; on Linux it downloads about 5 GB, mostly PyTorch's CUDA libraries (1 to 15 minutes)"
    find_uv
    update || make_fresh uv || make_fresh pip || die "could not install (the lines above say why);" \
        "check the network and the disk, on Debian also 'apt install python3-venv', and run ./run.sh setup again"
    fingerprint >"$stamp.new" || die "$venv/bin/python does not run; run ./run.sh setup again"
    rm -f "$building"
    mv -f "$stamp.new" "$stamp"
}

setup() {
    if is_done; then return 0; fi
    cd "$root"
    trap leave EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    take_lock
    is_done || make_it
    leave
    trap - EXIT HUP INT TERM
}

extra() { # $1: a name of pyproject.toml's optional-dependencies
    case ${1:-} in
    export | watch | browser) ;;
    *) echo "extra: '${1:-}' is not there; known: export (ONNX), watch (TensorBoard), browser (playwright)" >&2; exit 2 ;;
    esac
    find_python
    find_uv
    if [ -n "$uv" ] && install uv -e ".[$1]"; then return 0; fi
    install pip -e ".[$1]" || die "could not install the extra '$1' (the lines above say why)"
}

# ---- commands ----------------------------------------------------------------------------------------------------------

lint() {
    status=0
    "$venv/bin/ruff" check "$root" || status=1
    "$venv/bin/ruff" format --check "$root" || status=1
    return "$status"
}

bench() {
    if [ $# -eq 0 ]; then
        echo "benchmarks (./run.sh bench NAME; none is part of the tests):"
        # What can be run says so in its first lines; the others are parts of these.
        for file in $(grep -l "^make [a-z]\|^./run.sh bench" benchmarks/*.py); do name=${file##*/}; echo "  ${name%.py}"; done
        return 0
    fi
    [ -f "benchmarks/$1.py" ] || { echo "benchmarks/$1.py: not there; ./run.sh bench lists what is" >&2; exit 2; }
    name=$1
    shift
    exec "$venv/bin/python" "benchmarks/$name.py" "$@"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
help | -h | --help) usage; exit 0 ;;
setup | demo | test | lint | types | bench | calibrate | extra | segnl | python) ;;
*) printf "run.sh: unknown command '%s'\n" "$command" >&2; usage >&2; exit 2 ;;
esac

setup
export NO_ALBUMENTATIONS_UPDATE=1
cd "$root"
case $command in
setup) say ".venv is ready" ;;
demo) exec "$venv/bin/python" -m segnl demo "$@" ;;
test) # two processes of one thread each: twice as fast on two cores, and no threads that wait for each other
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    export OMP_NUM_THREADS
    exec "$venv/bin/python" -m pytest -n 2 "$@"
    ;;
lint) lint ;;
types) exec "$venv/bin/python" -m mypy "$@" ;;
bench) bench "$@" ;;
calibrate) bench calibrate "$@" ;;
extra) extra "$@" ;;
segnl) cd "$here" && exec "$venv/bin/python" -m segnl "$@" ;;
python) cd "$here" && exec "$venv/bin/python" "$@" ;;
esac
