#!/usr/bin/env bash
# Talks with SESAME on the miniature about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat miniature/sesame "$@"
