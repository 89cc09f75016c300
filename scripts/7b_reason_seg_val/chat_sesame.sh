#!/usr/bin/env bash
# Talks with SESAME on LLaVA-1.6-7B about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat 7b/sesame "$@"
