#!/usr/bin/env bash
# scripts/docs.sh [serve]: build the documentation into build/site (warnings are errors), or show it.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export NO_MKDOCS_2_WARNING=1 # an advertisement for other programs
case "${1:-build}" in
    build) exec .venv/bin/python -m mkdocs build --strict --quiet ;;
    serve) exec .venv/bin/python -m mkdocs serve ;;
    *) echo "expected nothing or 'serve', not '$1'" >&2; exit 2 ;;
esac
