#!/usr/bin/env bash
# scripts/test.sh [--cpu|--gpu] [pytest arguments]: set up on first use, then the tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python -m pytest "$@"
