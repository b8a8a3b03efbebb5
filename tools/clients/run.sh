#!/usr/bin/env bash
# Runs the server's clients from other projects against `thyme-engine serve`: OpenAI's, TRL's, LMMs-Eval's and VLMEvalKit's.
#
#   tools/clients/run.sh [CLIENT...]
#
# Each gets a virtual environment of its own in CLIENTS_FOLDER (target/clients), made at the first run; together they take some 10 GB.
# CLIENTS_TORCH=DIR shares the PyTorch of another virtual environment with them. VLMEVALKIT=DIR takes VLMEvalKit from a checkout, where GitHub
# cannot be reached. PYTHON (python3) makes the environments.
set -euo pipefail
cd "$(dirname "$0")/../.."
clients=("$@")
[ $# -gt 0 ] || clients=(openai trl lmms_eval vlmeval)
folder=$(realpath -m "${CLIENTS_FOLDER:-target/clients}")

site_packages() { # site_packages ENVIRONMENT
    "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}

install() { # install CLIENT: unless what is installed is what is required
    local environment=$folder/$1 required=tools/clients/requirements/$1.txt
    cmp -s "$required" "$environment/installed.txt" && return
    "${PYTHON:-python3}" -m venv --clear "$environment"
    [ -z "${CLIENTS_TORCH:-}" ] || site_packages "$CLIENTS_TORCH" >"$(site_packages "$environment")/torch.pth"
    local wanted=$required
    if [ "$1" = vlmeval ] && [ -n "${VLMEVALKIT:-}" ]; then
        wanted=$environment/requirements.txt
        sed "s|^-e git.*|-e $(realpath "$VLMEVALKIT")|" "$required" >"$wanted"
    fi
    "$environment/bin/python" -m pip install --quiet -r "$wanted"
    cp "$required" "$environment/installed.txt"
}

tests=()
for client in "${clients[@]}"; do
    case $client in
        openai) tests+=(the_openai_client) ;;
        trl) tests+=(the_trl_client) ;;
        lmms_eval) tests+=(lmms_eval_scores) ;;
        vlmeval) tests+=(vlmevalkit_scores) ;;
        *) echo "there is no client $client; known: openai, trl, lmms_eval, vlmeval" >&2; exit 2 ;;
    esac
    install "$client"
    export "THYME_${client^^}_PYTHON=$folder/$client/bin/python"
done
cargo test --test it -- --ignored "${tests[@]}"
