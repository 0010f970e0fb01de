#!/bin/sh -eu
# SPDX-License-Identifier: MIT
# In the container of the Dockerfile beside it, which sets the compilers, their flags and OUT.
exec "$SRC/nvmx/fuzz/build.sh"
