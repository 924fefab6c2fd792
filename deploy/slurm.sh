#!/bin/bash
# A study on a Slurm cluster: Ray on every node of the job, the study on the first, as `sbatch deploy/slurm.sh`.
# A job that is requeued goes on where the study's events end. Its nodes are its own (--exclusive): at the end Ray stops
# whatever Ray its owner has on them. docs/cluster.md explains it.
#
# Change these: what is asked for, the study, where it is stored (a folder that all nodes share) and the data.
#SBATCH --job-name=streets
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --exclusive
set -euo pipefail
project=$HOME/fcn-tuner
storage=$HOME/studies
data=$HOME/data
study=$project/search_spaces/fcn8s_kitti.toml

export PATH=$project/.venv/bin:$PATH
export RAY_USAGE_STATS_ENABLED=0
# Ray keeps its sockets there. A job's own TMPDIR, which it would take, is often too long a path for one.
export RAY_TMPDIR=/tmp

# Other people use these nodes too: a token of this job's, which only its owner can read.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/slurm-$SLURM_JOB_ID
mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):$((20000 + SLURM_JOB_ID % 20000))

cd "$project"
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false -- \
  python -m tuner run "$study" --or-resume --name streets --address "$address" --storage "$storage" \
  --set "fixed.data_dir=$data"
