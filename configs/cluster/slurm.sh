#!/bin/bash
# Train under SLURM on one or more nodes, one task per GPU:
#
#   sbatch configs/cluster/slurm.sh chairs.yaml [options of fit]
#   sbatch --nodes=8 configs/cluster/slurm.sh chairs.yaml --data.batch_size=512
#
# Three minutes before the time limit the run saves and the job requeues itself. A preempted job saves, and SLURM requeues
# it. A requeued job resumes the same run. scancel saves and ends the job.
#SBATCH --job-name=unrender
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u

config=${1:?usage: sbatch configs/cluster/slurm.sh CONFIG [options of fit]}
shift
name=$(basename "$config" .yaml)
run=${RUN_DIR:-runs/$name/slurm-$SLURM_JOB_ID} # a requeued job keeps its id and therefore its run
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

requeue=no
trap 'requeue=yes; kill -TERM "$step"' USR1
trap 'kill -TERM "$step"' TERM

srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m trainer fit --config "$config" --run_dir "$run" \
    --trainer.strategy=ddp --trainer.num_nodes="$SLURM_NNODES" --trainer.devices="$SLURM_NTASKS_PER_NODE" "$@" &
step=$!
while true; do # a signal interrupts wait, not the step
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break
done

if [ "$requeue" = yes ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
