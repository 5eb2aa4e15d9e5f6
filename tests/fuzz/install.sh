#!/bin/sh
# Schemathesis, with all that it needs at fixed versions, in .sealpost/fuzz-venv: only the part "http" of `npm run fuzz` needs it.
set -eu
cd "$(dirname "$0")/../.."
python3 -m venv .sealpost/fuzz-venv
.sealpost/fuzz-venv/bin/pip install --quiet --disable-pip-version-check -r tests/fuzz/requirements.txt
.sealpost/fuzz-venv/bin/schemathesis --version
