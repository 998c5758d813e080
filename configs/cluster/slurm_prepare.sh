#!/bin/bash
# The images of a config drawn by many jobs, each a part of them, before training:
#
#   sbatch configs/cluster/slurm_prepare.sh chairs.yaml [--data.ARGUMENT=VALUE ...]
#
# UNRENDER_CACHE must lie where all machines see it. A second submission draws only what is missing. OpenGL draws on a GPU
# where a job has one (--gpus=1), else on its cores.
#SBATCH --job-name=unrender-prepare
#SBATCH --array=1-64
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=%x-%A-%a.log
set -u

config=${1:?usage: sbatch configs/cluster/slurm_prepare.sh CONFIG [options]}
shift
exec "${PYTHON:-.venv/bin/python}" -m trainer prepare --config "$config" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
