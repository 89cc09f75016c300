#!/usr/bin/env bash
# Shows the curves of GSVA on LLaVA-1.6-13B in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves 13b/gsva "$@"
