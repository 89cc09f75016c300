#!/usr/bin/env bash
# Shows what each layer of READ on the miniature looks at, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page miniature/read layers "$@"
