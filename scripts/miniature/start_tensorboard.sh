#!/usr/bin/env bash
# Shows the curves of all runs in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves_of_all "$@"
