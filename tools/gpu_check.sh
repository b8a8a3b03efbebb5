#!/usr/bin/env bash
# Everything that only a GPU can show, on a machine that need not have Rust.
#
#   tools/gpu_check.sh pack              where Rust is: builds tests, benches and the program into target/gpu_check/
#   tools/gpu_check.sh [PIECE...]        where the GPU is: all pieces, or those named; all but large take under 9 minutes
#
# Pieces: doctor   what was found
#         tests    every op on the GPU against the reference; sampler against trainer; a step of GRPO
#         sanitize the ops' tests under compute-sanitizer: memcheck, racecheck, initcheck
#         peers    cuBLAS, cuDNN and a copy, by PyTorch ($PYTHON)
#         bench    every kernel at the shapes of 7B and 2B models, beside the peers
#         train    recipes/grpo_ats.toml --device cuda
#         large    random weights of Qwen2.5-VL-7B's shapes, 17 GB on the disk, or of a 0.6B model where the GPU has less than 40 GB:
#                  drawn, generated with, scored to the same bits; then a step of GRPO on the most parameters that fit, with the table
# $LARGE names a config of recipes/large/, $DEVICE is where `large` computes (cuda).
# Results go to $OUT, by default benches/runs/DATE-GPU/.
set -uo pipefail
cd "$(dirname "$0")/.."
packed=target/gpu_check
# Seconds after which all pieces are over.
DEADLINE=530

pack() {
    THYME_NVCC=$(tools/setup_nvcc.sh) || exit 1
    export THYME_NVCC
    rm -rf "$packed"
    mkdir -p "$packed"
    cargo build --release --quiet || exit 1
    strip -o "$packed/thyme-engine" target/release/thyme-engine
    executable() { python3 -c '
import json, sys
lines = (json.loads(line) for line in sys.stdin)
print([line["executable"] for line in lines if line.get("executable") and line["target"]["name"] == sys.argv[1]][-1])' "$1"; }
    strip -o "$packed/it" "$(cargo test --release --no-run --test it --message-format=json 2>/dev/null | executable it)" || exit 1
    strip -o "$packed/kernels" "$(cargo bench --no-run --bench kernels --message-format=json 2>/dev/null | executable kernels)" || exit 1
    pwd >"$packed/built_in"
    (cd "$packed" && tar -czf packed.tar.gz built_in it kernels thyme-engine && rm built_in it kernels thyme-engine)
    du -h "$packed/packed.tar.gz"
}

piece() { # piece NAME SECONDS COMMAND...: runs it, keeps what it says, remembers how it went
    local name=$1 seconds=$2 begin=$SECONDS verdict=ok left=$((DEADLINE - SECONDS))
    shift 2
    if [ "$left" -lt 10 ]; then
        summary+=("$(printf '%-12s NO TIME LEFT; run it by name' "$name")")
        failed=1
        return
    fi
    [ "$left" -lt "$seconds" ] && seconds=$left
    printf '\n== %s: %s\n' "$name" "$*"
    timeout "$seconds" "$@" >"$out/$name.txt" 2>&1 || { verdict="FAILED ($?)"; failed=1; }
    tail -n 25 "$out/$name.txt"
    summary+=("$(printf '%-12s %-14s %4d s' "$name" "$verdict" $((SECONDS - begin)))")
}

sanitize() { # sanitize TOOL
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) ||
        { echo "compute-sanitizer is not on this machine"; return 1; }
    THYME_TEST_DEVICE=gpu "$sanitizer" --tool "$1" --error-exitcode 9 "$packed/it" --test-threads=1 ops::attention ops::linear \
        ops::rms_norm ops::layer_norm ops::embedding ops::rope ops::rows ops::swiglu ops::gelu ops::patch_embed \
        ops::token_logprob ops::sample ops::adamw ops::grad_norm ops::copy_pages ops::random_normal
}

bench() {
    "$packed/kernels" --bench
    python3 tools/gpu_table.py target/criterion "$out/peers.txt" >"$out/README.md"
    cat "$out/README.md"
}

train() {
    mkdir -p "$packed/work"
    (cd "$packed/work" && ../thyme-engine train ../../../recipes/grpo_ats.toml --device cuda --overwrite)
}

say_and_time() { # say_and_time COMMAND...
    local begin=$SECONDS
    printf '\n-- %s\n' "${*/#*\//}"
    "$@" && echo "-- $((SECONDS - begin)) s"
}

large() {
    local root=$PWD work=$packed/work thyme=$PWD/$packed/thyme-engine recipe=$PWD/recipes/large/grpo.toml attempt settings
    rm -rf "$work/large" && mkdir -p "$work/shapes" && cd "$work" || return 1
    # Beside the config stands the tiny model's tokenizer, whose tokens are the first of the vocabulary; pictures are seen at 448 x 448.
    cp "$root"/recipes/tiny/{*.json,*.jinja} shapes && cp "$root/recipes/large/$LARGE.json" shapes/config.json || return 1
    sed -i 's/"max_pixels": [0-9]*/"max_pixels": 200704/' shapes/preprocessor_config.json
    say_and_time "$thyme" init --config shapes/config.json --seed 0 --out large --device "$DEVICE" || return 1
    "$thyme" data needle --out pictures --count 6 --seed 0 || return 1
    python3 "$root/tools/large_requests.py" questions pictures >questions.jsonl
    say_and_time "$thyme" batch --model large --input questions.jsonl --output answers.jsonl --max-tokens 32 --device "$DEVICE" || return 1
    python3 "$root/tools/large_requests.py" answered questions.jsonl answers.jsonl >answered.jsonl
    say_and_time "$thyme" score --model large --input answered.jsonl --output scores.jsonl --device "$DEVICE" || return 1
    python3 "$root/tools/large_requests.py" compare answers.jsonl scores.jsonl || return 1
    # The recipe draws its own weights. The first of these that the memory's table lets through is trained.
    rm large/*.safetensors
    for attempt in "$LARGE" "$LARGE model.freeze_vision_tower=true model.freeze_merger=true" qwen2_vl_0_6b; do
        read -ra settings <<<"$attempt"
        cp "$root/recipes/large/${settings[0]}.json" large/config.json
        settings=("${settings[@]/#/--set=}")
        settings=("${settings[@]:1}" --device "$DEVICE")
        say_and_time "$thyme" train "$recipe" "${settings[@]}" --dry-run || continue
        say_and_time "$thyme" train "$recipe" "${settings[@]}" && cat runs/large/metrics.jsonl
        return
    done
    return 1
}

if [ "${1:-}" = pack ]; then
    pack
    exit
fi
[ -e "$packed/packed.tar.gz" ] || { echo "nothing is packed; run \`tools/gpu_check.sh pack\` where Rust is" >&2; exit 1; }
tar -xzf "$packed/packed.tar.gz" -C "$packed" || exit 1
# Tests know the folder that they were built in.
built_in=$(cat "$packed/built_in")
[ -e "$built_in" ] || { mkdir -p "$(dirname "$built_in")" && ln -s "$PWD" "$built_in"; }
mkdir -p target/release
[ -e target/release/thyme-engine ] || cp "$packed/thyme-engine" target/release/

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' ' '-' | tr '[:upper:]' '[:lower:]')
out=${OUT:-benches/runs/$(date +%F)-${gpu:-unknown}}
mkdir -p "$out"
summary=()
failed=0
pieces=("$@")
[ ${#pieces[@]} -gt 0 ] || pieces=(doctor tests sanitize peers bench train large)
megabytes=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)
[ "${megabytes:-0}" -lt 40000 ] && smaller=qwen2_vl_0_6b
LARGE=${LARGE:-${smaller:-qwen2_5_vl_7b}}
DEVICE=${DEVICE:-cuda}
export -f sanitize bench train say_and_time large
export packed out LARGE DEVICE
for name in "${pieces[@]}"; do
    case $name in
        doctor) piece doctor 60 "$packed/thyme-engine" doctor ;;
        tests) THYME_TEST_DEVICE=gpu piece tests 150 "$packed/it" ops:: simt::policy ;;
        sanitize) for tool in memcheck racecheck initcheck; do piece "$tool" 60 bash -c "sanitize $tool"; done ;;
        peers) piece peers 60 "${PYTHON:-python3}" tools/gpu_peers.py ;;
        bench) piece bench 120 bash -c bench ;;
        train) piece train 120 bash -c train ;;
        large) piece large 240 bash -c large ;;
        *) echo "there is no piece $name; they are doctor, tests, sanitize, peers, bench, train, large" >&2; exit 2 ;;
    esac
done
printf '\n== summary, in %s\n' "$out"
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit $failed
