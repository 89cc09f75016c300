#!/usr/bin/env bash
# Shows the curves of LISA on LLaVA-1.6-7B in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves 7b/lisa "$@"
