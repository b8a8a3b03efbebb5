#!/usr/bin/env bash
# What only a GPU can show, on a machine that has one and need not have Rust.
#
#   tools/gpu_check.sh pack                   where Rust is: builds tests, benches, probes and the program into target/gpu_check/
#   tools/gpu_check.sh [PIECE...]             where the GPU is: all pieces, or those named, within 560 s
#   tools/gpu_check.sh --rehearse [PIECE...]  anywhere, behind `pack`: the same on the host at sizes of a toy, so that it works on the day
#
# Pieces: doctor   the check of a card: tensor cores, every kernel, row invariance, a policy, graphs
#         probes   mma.sync beside wgmma to the bit, rates, latencies (tools/gpu_check/probes.cu)
#         tests    the ops on the GPU against the reference, sampler against trainer
#         turns    every kernel beside cuBLASLt, cuDNN and PyTorch's fused forms ($PYTHON), case by case in turns
#         ncu      stalls, L2 and occupancy of ten launches, where Nsight Compute is
#         large    Qwen2.5-VL-7B's shapes with random weights, in one process: decoding, one policy, updates, memory
# Results go to $OUT, by default benches/runs/DATE-GPU/: results.jsonl, log.txt, README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
packed=target/gpu_check

pack() {
    THYME_NVCC=$(tools/setup_nvcc.sh)
    export THYME_NVCC
    rm -rf "$packed"
    mkdir -p "$packed"
    local toolkit
    toolkit=$(dirname "$(dirname "$THYME_NVCC")")
    "$THYME_NVCC" -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -cudart static -cudadevrt none -L "$toolkit/lib" \
        -o "$packed/probes" tools/gpu_check/probes.cu
    mkdir "$packed/ladder"
    local rung
    for rung in kernels/ladder/*/*.cu; do
        "$THYME_NVCC" -cubin -diag-suppress 177 -std=c++17 -O3 --fmad=false -gencode=arch=compute_90a,code=sm_90a -I kernels \
            -o "$packed/ladder/$(basename "$rung" .cu).cubin" "$rung"
    done
    executable() { python3 -c '
import json, sys
lines = (json.loads(line) for line in sys.stdin)
print([line["executable"] for line in lines if line.get("executable") and line["target"]["name"] == sys.argv[1]][-1])' "$1"; }
    cargo build --release --quiet
    strip -o "$packed/thyme-engine" target/release/thyme-engine
    strip -o "$packed/it" "$(cargo test --release --no-run --test it --message-format=json 2>/dev/null | executable it)"
    for bench in kernels large; do
        strip -o "$packed/$bench" "$(cargo bench --no-run --bench "$bench" --message-format=json 2>/dev/null | executable "$bench")"
    done
    pwd >"$packed/built_in"
    (cd "$packed" && tar -czf packed.tar.gz built_in it kernels ladder large probes thyme-engine)
    du -h "$packed/packed.tar.gz"
}

unpack() { # Tests know the folder that they were built in, and where the program is.
    [ -e "$packed/packed.tar.gz" ] || { echo "nothing is packed; run \`tools/gpu_check.sh pack\` where Rust is" >&2; exit 1; }
    tar -xzf "$packed/packed.tar.gz" -C "$packed"
    local built_in
    built_in=$(cat "$packed/built_in")
    [ -e "$built_in" ] || { mkdir -p "$(dirname "$built_in")" && ln -s "$PWD" "$built_in"; }
    mkdir -p target/release
    [ -e target/release/thyme-engine ] || cp "$packed/thyme-engine" target/release/
}

case ${1:-} in
    pack) pack ;;
    --rehearse)
        unpack
        exec python3 tools/gpu_check/run.py "${OUT:-target/gpu_check/rehearsal}" --rehearse "${@:2}"
        ;;
    *)
        unpack
        gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' ' '-' | tr '[:upper:]' '[:lower:]')
        exec python3 tools/gpu_check/run.py "${OUT:-benches/runs/$(date +%F)-${gpu:-unknown}}" "$@"
        ;;
esac
