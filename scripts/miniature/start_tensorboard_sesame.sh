#!/usr/bin/env bash
# Shows the curves of SESAME on the miniature in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves miniature/sesame "$@"
