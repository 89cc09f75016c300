#!/usr/bin/env bash
# Makes one self-contained model of a run: base, adapters and trained parts, merged and checked.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge "$@"
