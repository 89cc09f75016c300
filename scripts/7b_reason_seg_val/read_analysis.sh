#!/usr/bin/env bash
# Shows what each layer of READ on LLaVA-1.6-7B looks at, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page 7b/read layers "$@"
