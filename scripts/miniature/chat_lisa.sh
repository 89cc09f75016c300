#!/usr/bin/env bash
# Talks with LISA on the miniature about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat miniature/lisa "$@"
