#!/usr/bin/env bash
# scripts/run.sh [--cpu|--gpu] CONFIG [key=value ...]: set up on first use, then the run.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python -m virgo_ray.run "$@"
