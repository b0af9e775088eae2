#!/bin/sh
# usage: ./run.sh COMMAND [ARGUMENTS]
#   setup             make .venv and install segnl into it; every other command does so by itself when needed
#   demo              what five heads can see: trains each with three seeds, prints the verdict, makes a page of pictures
#   test [ARGS]       the tests; ARGS go to pytest
#   lint, types       ruff check and ruff format --check; mypy
#   docs              builds the documentation as a site into site/, strictly, and executes its quick start
#   bench [NAME ...]  list the benchmarks, or run benchmarks/NAME.py; bench gpu: tests and timings for a CUDA device
#   calibrate [ARGS]  how often the intervals of compare contain the true difference, on simulated studies
#   extra NAME        optional packages into .venv: export (ONNX), coco, huggingface, ray, timm, tensorboard, tiff, video, wandb, mlflow, browser
#   segnl ARGS        the command line: ./run.sh segnl train --config FILE
#   python ARGS       the environment's Python: ./run.sh python train.py --config FILE
# settings: SEGNL_PYTHON=FILE chooses the Python (>= 3.11); SEGNL_INSTALLER=pip installs without uv

# POSIX sh, Linux and macOS. What the set-up promises (tests/test_setup.py):
#   finished     .venv/.segnl-stamp is written last and names what .venv was made from; checking it takes milliseconds
#   killed       .venv holds .segnl-building while it is made; the next run deletes such a .venv and makes a new one
#   two at once  one works, the other waits for a lock that the kernel releases when the last process of the first ends
#   yours        a .venv that this script did not make is moved aside, never deleted
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
here=$(pwd) venv=$root/.venv state=$root/.segnl-setup
stamp=$venv/.segnl-stamp building=$venv/.segnl-building

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*" && exit 6; } # segnl's exit code for the machine

is_supported() { "$1" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() { # sets `python`
    for name in ${SEGNL_PYTHON:+"$SEGNL_PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        python=$(command -v "$name") || python=$name
        # Apple's /usr/bin/python3 opens a window while the command line tools are missing; a set-up asks nothing.
        [ "$(uname) $python" != "Darwin /usr/bin/python3" ] || xcode-select -p >/dev/null 2>&1 || continue
        if is_supported "$python"; then return 0; fi
        [ -z "${SEGNL_PYTHON:-}" ] || die "SEGNL_PYTHON=$python does not run or is older than 3.11; give a Python >= 3.11"
    done
    die "no Python 3.11 or newer on PATH; install one (apt install python3 python3-venv, or brew install python) and run this again"
}

fingerprint() { # one line that changes with the Python, the requirements and the checkout's place
    version=$("$venv/bin/python" -I -S -c 'import sys; print(sys.version.split()[0])' 2>/dev/null) || return 1
    echo "python $version, requirements $(cd "$root" && cat requirements.txt requirements-dev.txt pyproject.toml | cksum), in $root"
}

is_done() { [ -f "$stamp" ] && [ ! -e "$building" ] && [ "$(fingerprint)" = "$(cat "$stamp")" ]; }

is_updatable() { # a finished .venv of this checkout whose Python and an installer run: only the requirements changed
    [ -f "$stamp" ] && [ ! -e "$building" ] && is_supported "$venv/bin/python" && grep -qF ", in $root" "$stamp" &&
        { command -v uv || [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip --version; } >/dev/null 2>&1
}

start_empty() {
    destination=$venv.aside.$(date +%Y%m%d-%H%M%S)
    if [ -e "$stamp" ] || [ -e "$building" ]; then destination=$state/trash; fi
    if [ -e "$venv" ] || [ -L "$venv" ]; then say "moving the .venv that is here to $destination" && mv "$venv" "$destination"; fi
    rm -rf "$state/trash" && mkdir "$venv" && : >"$building"
}

install_with() { # $1: uv or pip; $2: [EXTRA] or nothing
    say "installing requirements.txt, requirements-dev.txt and segnl$2 into .venv with $1"
    own=$venv/bin/python
    [ -x "$own" ] || "$python" -m venv "$venv" || uv venv --allow-existing --no-project --python "$python" "$venv" || return 1
    if [ "$1" = pip ]; then
        "$own" -m pip install --no-input -r requirements.txt -r requirements-dev.txt -e ".$2"
    else
        uv=$(command -v uv) || { uv=$venv/bin/uv && [ -x "$uv" ]; } || "$own" -m pip install --quiet uv || return 1
        "$uv" pip install --python "$own" -r requirements.txt -r requirements-dev.txt -e ".$2"
    fi
}

verify() {
    NO_ALBUMENTATIONS_UPDATE=1 "$venv/bin/python" -I -c '
import torch, torchvision, cv2, albumentations, cityscapesscripts, segnl
from importlib.metadata import version
opencv = {version("opencv-python"), version("opencv-python-headless")}
if len(opencv) > 1:
    raise SystemExit(f"opencv-python and opencv-python-headless share the folder cv2/ and must be of one version, not {opencv}")
print(f"setup: torch {torch.__version__}, torchvision {torchvision.__version__}, opencv {cv2.__version__}")'
}

make_venv() { # $1: [EXTRA] or nothing; runs under the lock, asks nothing, prints to stderr
    exec </dev/null >&2
    cd "$root"
    [ -n "$1" ] || ! is_done || exit 0
    unset PYTHONHOME PYTHONPATH VIRTUAL_ENV UV_SYSTEM_PYTHON PIP_TARGET PIP_PREFIX
    # Certificates of the system, as pip and git take them: a company's own are there.
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
    find_python
    if is_updatable; then update=yes && : >"$building"; else update='' && say "on Linux this downloads about 5 GB, once"; fi
    for installer in ${SEGNL_INSTALLER:-uv pip}; do
        [ -n "$update" ] || start_empty || die "$venv cannot be made; make $root writable"
        if install_with "$installer" "$1" && verify; then
            fingerprint >"$stamp.new" && rm -f "$building" && mv -f "$stamp.new" "$stamp"
            exit
        fi
        say "$installer failed (the lines above say why)"
    done
    [ -z "$update" ] || ! verify || rm -f "$building" # an update that could not begin leaves a .venv that works
    die "could not install; check the network and the disk, on Debian also 'apt install python3-venv', and run this again"
}

setup() { # $1: [EXTRA] or nothing
    [ -n "$1" ] || ! is_done || return 0
    find_python
    mkdir -p "$state" || die "$state cannot be made; make $root writable"
    # Every process of the set-up inherits the open lock file, so an installer that outlives a kill still holds the lock.
    "$python" -I -c '
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.set_inheritable(lock, True)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: another set-up is at work here; waiting for it to end", file=sys.stderr)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.execvp("sh", ["sh", *sys.argv[2:]])' "$state/setup.lock" "$root/run.sh" make-venv "$1"
}

command=${1:-help} extra=
[ $# -eq 0 ] || shift
case $command in
help | -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;;
make-venv) make_venv "$1" ;;
extra)
    case ${1:-} in export | coco | huggingface | ray | timm | tensorboard | tiff | video | wandb | mlflow | watch | browser | docs) extra="[$1]" ;; *)
        echo "extra: '${1:-}' is not there; known: export (ONNX), coco, huggingface, ray, timm, tensorboard, tiff, video, wandb, mlflow, browser, docs" >&2 && exit 2 ;;
    esac ;;
setup | demo | test | lint | types | docs | bench | calibrate | segnl | python) ;;
*) echo "run.sh: unknown command '$command'; ./run.sh help lists them" >&2 && exit 2 ;;
esac

setup "$extra"
export NO_ALBUMENTATIONS_UPDATE=1
case $command in segnl | python) cd "$here" ;; *) cd "$root" ;; esac
case $command in
setup | extra) say ".venv is ready" ;;
demo) exec "$venv/bin/python" -m segnl demo "$@" ;;
test) # two processes of one thread each: twice as fast on two cores, and no threads that wait for each other
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} exec "$venv/bin/python" -m pytest -n 2 "$@" ;;
lint) "$venv/bin/ruff" check . && "$venv/bin/ruff" format --check . ;;
types) exec "$venv/bin/python" -m mypy "$@" ;;
docs) [ -x "$venv/bin/mkdocs" ] || setup "[docs]" && NO_MKDOCS_2_WARNING=1 exec "$venv/bin/mkdocs" build --strict "$@" ;;
calibrate) "$venv/bin/python" benchmarks/calibrate.py "$@" && exec "$venv/bin/python" benchmarks/attack.py ;;
bench) # a file that can be run says how in its first lines
    [ $# -gt 0 ] || { grep -l '^make [a-z]\|^./run.sh bench' benchmarks/*.py | sed 's|^benchmarks/|  |; s|\.py$||' && exit; }
    name=$1 && shift && exec "$venv/bin/python" "benchmarks/$name.py" "$@" ;;
segnl) exec "$venv/bin/python" -m segnl "$@" ;;
python) exec "$venv/bin/python" "$@" ;;
esac
