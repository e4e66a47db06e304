# Sourced by the other scripts: creates .venv in the repository and installs the package into it.
# shellcheck shell=bash

find_python() {  # prints the newest Python that is new enough and can make environments
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python >= 3.11 with venv found on PATH; install one (Debian, Ubuntu:" \
    "apt install python3.11 python3.11-venv) and run this again" >&2
  return 1
}

# use_venv EXTRAS [PACKAGE...]: run from the repository root. Puts .venv first on PATH, with
# this repository installed in editable mode together with its EXTRAS and further packages.
# Reinstalls only when setup.py, the list of packages or the repository's path has changed.
use_venv() {
  local python stamp expected IFS=-
  stamp=".venv/installed-$*"
  expected="$(printf '%s\n' "$PWD" "$@"; cat setup.py)"
  if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
    python="$(find_python)"
    echo "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  fi
  if [[ "$(cat "$stamp" 2>/dev/null)" != "$expected" ]]; then
    echo "installing packages into .venv; this takes a few minutes the first time"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]" "${@:2}"
    printf '%s\n' "$expected" >"$stamp"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
