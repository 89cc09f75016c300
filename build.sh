#!/usr/bin/env bash
# Makes .venv and installs what UGround needs. Running it again skips whatever is already done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'HELP'
Usage: ./build.sh [--dev] [--flash-attn]

Makes the virtual environment .venv and installs requirements.txt into it. Safe to repeat.

  --dev          also install the tools for tests and development
  --flash-attn   also install flash-attn (needs an NVIDIA GPU; compiles if no ready wheel fits)
  -h, --help     show this text

Environment variables:
  UGROUND_PYTHON           Python 3.11 or newer to use (default: the first one found on PATH)
  UGROUND_TORCH_INDEX_URL  package index to take torch from, for a certain CPU or CUDA build
                           (pytorch.org/get-started lists them)

uv is used when it is on PATH, otherwise pip, which is asked once for everything and takes ready wheels where there are
some: a version without one is passed over for an earlier one that has one.
HELP
}

say() { printf '[build] %s\n' "$*"; }
warn() { printf '[build] WARNING: %s\n' "$*" >&2; }
die() {
    printf '[build] error: %s\n' "$*" >&2
    exit 2
}

dev=false
flash_attn=false
for argument in "$@"; do
    case "$argument" in
        --dev) dev=true ;;
        --flash-attn | --flash_attn) flash_attn=true ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown option '$argument'; ./build.sh --help lists the options" ;;
    esac
done

gpu=false
if command -v nvidia-smi >/dev/null && [[ "$(nvidia-smi -L 2>/dev/null || true)" == GPU* ]]; then
    gpu=true
fi
if $flash_attn && ! $gpu; then
    die "flash-attn needs an NVIDIA GPU and nvidia-smi shows none; leave out --flash-attn (attention then runs by SDPA)"
fi

venv="$PWD/.venv"
venv_python="$venv/bin/python"

# ---- the virtual environment ----------------------------------------------------------------------------------------

is_supported_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [[ -n "${UGROUND_PYTHON:-}" ]]; then
        is_supported_python "$UGROUND_PYTHON" || die "UGROUND_PYTHON='$UGROUND_PYTHON' is not Python 3.11 or newer"
        echo "$UGROUND_PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if is_supported_python "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer on PATH; install one, or name it: UGROUND_PYTHON=path/to/python ./build.sh"
}

physical_path() { (cd "$1" && pwd -P); }

make_venv() {
    local python
    [[ ! -L "$venv" ]] || die "$venv is a symbolic link to an unsuitable environment; remove the link"
    python="$(find_python)"
    say "making .venv with $("$python" --version)"
    "$python" -m venv "$@" "$venv" ||
        die "'$python -m venv' failed; on Debian and Ubuntu it needs the package python3-venv"
}

venv_runs() { is_supported_python "$venv_python" && "$venv_python" -c 'import pip' 2>/dev/null; }

if [[ ! -e "$venv" ]]; then
    make_venv
elif [[ ! -f "$venv/pyvenv.cfg" && -n "$(ls -A "$venv")" ]]; then
    die "$venv exists and is not a virtual environment; move it away"
elif ! venv_runs; then
    say ".venv is incomplete or has an old Python: making it again"
    make_venv --clear
elif [[ -f "$venv/.location" && "$(<"$venv/.location")" != "$(physical_path "$venv")" ]]; then
    say ".venv was made elsewhere and has moved, which breaks its commands: making it again"
    make_venv --clear
fi
# The users of a container may not write to the environment in its image, which is then used as it is.
read_only=false
[[ -w "$venv" ]] || read_only=true
$read_only || physical_path "$venv" >"$venv/.location"

# ---- what is installed ----------------------------------------------------------------------------------------------

# Prints each requirement of the given files that the environment does not meet.
unmet() {
    "$venv_python" - "$@" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

from pip._vendor.packaging.requirements import Requirement

for path in sys.argv[1:]:
    for line in open(path, encoding="utf-8"):
        line = line.split("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            met = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            met = False
        if not met:
            print(line)
PYTHON
}

# Prints "cpu", "cuda 12.6", "rocm 6.3" or "missing", without the seconds that importing torch takes.
torch_build() {
    "$venv_python" - <<'PYTHON'
import importlib.util
import runpy

spec = importlib.util.find_spec("torch")
if spec is None or not spec.submodule_search_locations:
    print("missing")
else:
    version = runpy.run_path(f"{spec.submodule_search_locations[0]}/version.py")
    cuda, hip = version.get("cuda"), version.get("hip")
    print(f"cuda {cuda}" if cuda else f"rocm {hip}" if hip else "cpu")
PYTHON
}

has_package() { "$venv_python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }

package_version() { "$venv_python" -c "import importlib.metadata as m; print(m.version('$1'))"; }

# A fingerprint of everything that decides what a stage installs.
fingerprint() {
    "$venv_python" - "gpu=$gpu index=${UGROUND_TORCH_INDEX_URL:-}" "$@" <<'PYTHON'
import hashlib
import sys

digest = hashlib.sha256(f"{sys.version_info[:2]} {sys.argv[1]}".encode())
for path in sys.argv[2:]:
    digest.update(open(path, "rb").read())
print(digest.hexdigest())
PYTHON
}

# is_done STAGE FILE...: the stage was finished with these files, and its packages are still there.
is_done() {
    local stage="$1" stamp
    shift
    if $read_only; then
        [[ -z "$(unmet "$@")" ]] || die "requirements are not met and .venv cannot be written: $(unmet "$@" | tr '\n' ' ')"
        return
    fi
    stamp="$venv/.stamp-$stage"
    [[ -f "$stamp" && "$(<"$stamp")" == "$(fingerprint "$@")" && -z "$(unmet "$@")" ]]
}

mark_done() {
    local stage="$1"
    shift
    fingerprint "$@" >"$venv/.stamp-$stage"
}

# ---- installing -----------------------------------------------------------------------------------------------------

installer=pip
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
    installer=uv
fi

# uv does not read pip's settings: hand it those that decide where packages come from.
prepare_uv() {
    [[ $installer == uv ]] || return 0
    if [[ -z "${UV_FIND_LINKS:-}" ]]; then
        local links="${PIP_FIND_LINKS:-}"
        [[ -n "$links" ]] || links="$("$venv_python" -m pip config get global.find-links 2>/dev/null || true)"
        links="$(tr -s '[:space:]' ',' <<<"$links")"
        export UV_FIND_LINKS="${links%,}"
    fi
    if [[ -n "${PIP_INDEX_URL:-}" ]]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"; fi
    if [[ -n "${PIP_CERT:-}" ]]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi
}

# Bytecode is half of pip's work: Python writes what it imports when it first does, unless it is told never to.
bytecode_now=false
[[ -z "${PYTHONDONTWRITEBYTECODE:-}" ]] || bytecode_now=true

install() {
    local -a options=()
    if [[ $installer == uv ]]; then
        # Local files say themselves which build they are; otherwise uv chooses torch's build by the GPU driver.
        if [[ -z "${UV_FIND_LINKS:-}" && -z "${UGROUND_TORCH_INDEX_URL:-}" ]]; then options+=(--torch-backend=auto); fi
        if $bytecode_now; then options+=(--compile-bytecode); fi
        if uv pip install --python "$venv_python" ${options[@]+"${options[@]}"} "$@"; then return; fi
        warn "uv could not install this; trying pip"
    fi
    options=(--prefer-binary)
    if ! $bytecode_now; then options+=(--no-compile); fi
    "$venv_python" -m pip install "${options[@]}" "$@" || die "the installation failed; the lines above give the reason"
}

torch_requirement="$(grep -E '^torch[<>=~]' requirements.txt)"

# install_base FILE...: one pass for all of these requirements.
install_base() {
    local build file
    local -a options=()
    prepare_uv
    build="$(torch_build)"
    if [[ "$build" != missing ]]; then
        if unmet requirements.txt | grep -qFx "$torch_requirement"; then
            say "torch $(package_version torch) is outside $torch_requirement: replacing it"
            build=missing
        elif $gpu && [[ "$build" == cpu ]]; then
            say "torch $(package_version torch) is a CPU build and this machine has a GPU: replacing it"
            "$venv_python" -m pip uninstall --yes torch
            build=missing
        else
            say "keeping torch $(package_version torch) ($build)"
        fi
    fi
    if [[ "$build" == missing ]]; then
        if [[ -n "${UGROUND_TORCH_INDEX_URL:-}" ]]; then
            say "installing torch with $installer from UGROUND_TORCH_INDEX_URL"
            install --index-url "$UGROUND_TORCH_INDEX_URL" "$torch_requirement"
        elif $gpu; then
            say "this machine has an NVIDIA GPU: installing a CUDA build of torch"
        else
            say "no NVIDIA GPU: installing a CPU build of torch if there is one"
        fi
    fi
    say "installing $* with $installer (a minute or two)"
    for file in "$@"; do options+=(-r "$file"); done
    install "${options[@]}"
    say "torch $(package_version torch) ($(torch_build))"
    check_torch
    mark_done base requirements.txt
    if $dev; then install_dev_without_dependencies; fi
}

check_torch() {
    local build
    build="$(torch_build)"
    if $gpu && [[ "$build" == cpu ]]; then
        warn "this torch cannot use the GPU; remedy: set UGROUND_TORCH_INDEX_URL to the CUDA index that" \
            "pytorch.org/get-started names for your driver and run ./build.sh again"
    elif $gpu && ! "$venv_python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        warn "torch ($build) does not see the GPU: the driver is probably older than that CUDA; remedy: set" \
            "UGROUND_TORCH_INDEX_URL to the index of an older CUDA (pytorch.org/get-started) and run" \
            "'$venv_python -m pip uninstall --yes torch' and ./build.sh again"
    elif ! $gpu && [[ "$build" == cuda* && "$(uname -s)" == Linux ]]; then
        say "it runs on CPU too; for the smaller CPU build: $venv_python -m pip uninstall --yes torch, then run" \
            "./build.sh with UGROUND_TORCH_INDEX_URL set to the CPU index that pytorch.org/get-started names"
    fi
}

install_dev() {
    prepare_uv
    say "installing requirements-dev.txt with $installer"
    install -r requirements-dev.txt
    install_dev_without_dependencies
}

install_dev_without_dependencies() {
    say "installing requirements-dev-nodeps.txt with $installer"
    install --no-deps -r requirements-dev-nodeps.txt
    mark_done dev requirements-dev.txt requirements-dev-nodeps.txt
}

install_flash_attn() {
    local build
    build="$(torch_build)"
    [[ "$build" == cuda* ]] || die "flash-attn needs a CUDA build of torch; this one is: $build"
    say "installing flash-attn (minutes if it has to be compiled; MAX_JOBS=${MAX_JOBS:-4} compilers)"
    MAX_JOBS="${MAX_JOBS:-4}" "$venv_python" -m pip install --no-build-isolation 'flash-attn>=2.7,<3' ||
        die "flash-attn did not install; it is optional: attention runs by SDPA without it"
}

if is_done base requirements.txt; then
    say "requirements.txt: nothing to do (torch $(package_version torch), $(torch_build))"
elif $dev; then
    install_base requirements.txt requirements-dev.txt
else
    install_base requirements.txt
fi
if $dev; then
    if is_done dev requirements-dev.txt requirements-dev-nodeps.txt; then
        say "requirements-dev.txt: nothing to do"
    else
        install_dev
    fi
fi
if $flash_attn; then
    if has_package flash_attn; then
        say "flash-attn $(package_version flash-attn): nothing to do"
    else
        install_flash_attn
    fi
fi
if has_package torchvision; then
    warn "torchvision is in .venv. UGround does not use it, and one that does not fit torch breaks the imports of" \
        "transformers; remedy: $venv_python -m pip uninstall torchvision"
fi
say "ready after $SECONDS s; use .venv/bin/python, or: source .venv/bin/activate"
