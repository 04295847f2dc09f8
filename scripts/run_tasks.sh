#!/usr/bin/env bash
# The original's runs on the Long Range Arena: every task with every pattern and seed, by run_tasks.py.
# TASKS, MODELS and SEEDS may be set; further arguments go to every run: MODELS="hypercube local" bash run_tasks.sh
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
for task in ${TASKS:-listops text retrieval image pathfinder32-curv_contour_length_14}; do
    for model in ${MODELS:-softmax hypercube bigbird longformer global random local local+random}; do
        for seed in ${SEEDS:-42}; do
            python "$here/run_tasks.py" --model "$model" --task "$task" --seed "$seed" "$@"
        done
    done
done
