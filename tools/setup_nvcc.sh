#!/usr/bin/env bash
# Makes .nvcc/ with NVIDIA's compiler from PyPI: no GPU, no toolkit and no rights are needed, 340 MB are. build.rs finds it there.
# The last line that it prints is the compiler's path.
set -eu
cd "$(dirname "$0")/.."

if [ ! -x .nvcc/bin/python ]; then
    python3 -m venv .nvcc
    touch build.rs # so that the next build looks again
fi
# nvvm and crt are pinned too: newer ones make PTX that this ptxas refuses.
.nvcc/bin/pip install -q nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-cuda-cccl nvidia-cuda-nvdisasm==13.2.51 >&2
echo "$PWD"/.nvcc/lib/python3*/site-packages/nvidia/cu13/bin/nvcc
