#!/bin/bash
# A training by torchrun, on machines without a scheduler. One machine, one process a GPU:
#
#   bash configs/cluster/torchrun.sh chairs.yaml --run_dir runs/chairs/big [options of fit]
#
# Many machines that share a file system: the same on each, with their number, each one's own and the first one's address.
#
#   NODES=4 NODE=0 HOST=first.example bash configs/cluster/torchrun.sh chairs.yaml --run_dir runs/chairs/big
#
# PROCESSES is how many run on each machine (its GPUs), PORT any free one of the first machine's. The same command goes on
# with the run.
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
