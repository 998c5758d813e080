#!/bin/bash
# Train with torchrun, without a scheduler. On one machine, one process per GPU:
#
#   bash configs/cluster/torchrun.sh chairs.yaml --run_dir runs/chairs/big [options of fit]
#
# On several machines that share a file system, run it on each: NODES is their number, NODE the index of the machine, HOST
# the address of the first.
#
#   NODES=4 NODE=0 HOST=first.example bash configs/cluster/torchrun.sh chairs.yaml --run_dir runs/chairs/big
#
# PROCESSES is the number of processes per machine (default: its GPUs), PORT a free port of the first machine. Run the same
# command again to resume.
set -eu

config=${1:?usage: torchrun.sh CONFIG --run_dir RUN [options of fit]}
shift
python=${PYTHON:-.venv/bin/python}
nodes=${NODES:-1}
processes=${PROCESSES:-$("$python" -c "import torch; print(max(1, torch.cuda.device_count()))")}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

exec "$python" -m torch.distributed.run --nnodes="$nodes" --node_rank="${NODE:-0}" --nproc_per_node="$processes" \
    --master_addr="${HOST:-127.0.0.1}" --master_port="${PORT:-29500}" \
    -m trainer fit --config "$config" --trainer.strategy=ddp --trainer.num_nodes="$nodes" \
    --trainer.devices="$processes" "$@"
