#!/usr/bin/env bash
# Talks with LISA on the miniature about images, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page miniature/lisa ground "$@"
