#!/usr/bin/env bash
# Rollout and update speed beside transformers + PyTorch: the same checkpoints, prompts and lengths, on this machine, in one run; for
# the tiny model also the rollout of recipes/grpo_ats.toml, where the model's code runs and its images come back.
#
#   PYTHON=/path/to/python tools/compare_speed.sh [RESULTS.jsonl]
#
# PYTHON needs torch, transformers and pillow. SHAPES="group tiny large": the shipped tiny model, one group after the other (TRL's
# default of 8 sequences in a batch) and all groups together; 12 layers of 1,024 with random weights.
# Sizes: PROMPTS=12 GROUP=8 TOKENS=128 BATCH=96 for tiny, TASKS=48 (4 steps of the recipe) for its rollout with tools;
# LARGE_PROMPTS=2 LARGE_GROUP=8 LARGE_TOKENS=32 LARGE_BATCH=16; REPEATS=3.
# FREEZE=1 (the default) freezes the vision tower and merger on both sides, as the recipes do.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=$(realpath -m "${1:-target/compare_speed.jsonl}")
shapes=${SHAPES:-group tiny large}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --release --quiet
cargo bench --no-run --quiet --bench peer
engine=target/release/thyme-engine

mkdir -p "$work/large-config"
cp recipes/tiny/* "$work/large-config/"
"$python" - recipes/tiny/config.json "$work/large-config/config.json" <<'PYTHON'
import json, sys
config = json.load(open(sys.argv[1]))
config.update(hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=16, num_key_value_heads=4,
              initializer_range=0.02)
config["rope_scaling"]["mrope_section"] = [8, 12, 12]
config["vision_config"].update(out_hidden_size=1024)
json.dump(config, open(sys.argv[2], "w"), indent=2)
PYTHON
cp -r recipes/tiny-sft "$work/tiny"
ln -s tiny "$work/group"
"$engine" init --config "$work/large-config/config.json" --seed 0 --out "$work/large" >"$work/log"
"$engine" data needle --out "$work/needle" --count "${PROMPTS:-12}" --seed 0 >>"$work/log"
"$engine" data needle --out "$work/tasks" --count "${TASKS:-48}" --seed 0 >>"$work/log"
head -n "${LARGE_PROMPTS:-2}" "$work/needle/data.jsonl" >"$work/needle/large.jsonl"

: >"$results"
freeze=()
[ "${FREEZE:-1}" = 1 ] && freeze=(--freeze-vision)
for shape in $shapes; do
    case $shape in
        group) prompts=data.jsonl
            sizes=(--group "${GROUP:-8}" --max-new-tokens "${TOKENS:-128}" --batch "${GROUP:-8}") ;;
        tiny) prompts=data.jsonl
            sizes=(--group "${GROUP:-8}" --max-new-tokens "${TOKENS:-128}" --batch "${BATCH:-96}"
                --recipe "$PWD/recipes/grpo_ats.toml" --tasks "$work/tasks/data.jsonl") ;;
        large) prompts=large.jsonl
            sizes=(--group "${LARGE_GROUP:-8}" --max-new-tokens "${LARGE_TOKENS:-32}" --batch "${LARGE_BATCH:-16}") ;;
        *) echo "SHAPES has $shape; it may have group, tiny and large" >&2; exit 2 ;;
    esac
    common=(--model "$work/$shape" --prompts "$work/needle/$prompts" "${sizes[@]}" --repeats "${REPEATS:-3}" "${freeze[@]}")
    cargo bench --quiet --bench peer -- "${common[@]}" | tee -a "$results"
    "$python" tools/peer_speed.py "${common[@]}" | tee -a "$results"
done

"$python" - "$results" <<'PYTHON'
import json, pathlib, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
# The parts of ours, and which of theirs each is compared with: the faster of the two, at every dtype that they measured.
parts = {"rollout": ["rollout"], "rollout_with_tools": ["rollout_with_tools", "rollout_with_tools_temperature_1"], "update": ["update"]}
print(f"\n{'shape':<8}{'part':<20}{'thyme-engine':>14}{'peer':>12}{'ratio':>8}  peer's best")
for ours, theirs in zip(rows[::2], rows[1::2]):
    assert ours["prompt_tokens"] == theirs["prompt_tokens"], "both sides must read the same prompts"
    for part in [part for part in parts if part in ours["bfloat16"]]:
        tries = [(dtype, name) for dtype in ("float32", "bfloat16") if dtype in theirs for name in parts[part]]
        dtype, name = max(tries, key=lambda one: theirs[one[0]][one[1]]["tokens_per_s"])
        best = theirs[dtype][name]
        mine = ours["bfloat16"][part]["tokens_per_s"]
        how = f"{dtype}, {best['threads']} threads" + ", temperature 1 throughout" * name.endswith("temperature_1")
        print(f"{pathlib.Path(ours['model']).name:<8}{part.replace('_', ' '):<20}{mine:>12.0f}/s{best['tokens_per_s']:>10.0f}/s"
              f"{mine / best['tokens_per_s']:>8.2f}  {how}")
PYTHON
