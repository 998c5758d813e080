#!/bin/bash
# Render the training images of a config in many jobs, one part per job, before training:
#
#   sbatch configs/cluster/slurm_prepare.sh chairs.yaml [--data.ARGUMENT=VALUE ...]
#
# UNRENDER_CACHE must be on a file system that all machines share. A second submission renders only missing images. OpenGL
# renders on the GPU of a job if it has one (--gpus=1), otherwise on its CPU cores.
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
