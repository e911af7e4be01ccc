#!/usr/bin/env bash
# scripts/test.sh [--cpu|--gpu] [pytest arguments]: set up on first use, then the tests.
# Two at a time, but for those that need the machine for themselves (tests/conftest.py).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python -m pytest -n 2 "$@"
