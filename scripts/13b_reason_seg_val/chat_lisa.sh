#!/usr/bin/env bash
# Talks with LISA on LLaVA-1.6-13B about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat 13b/lisa "$@"
