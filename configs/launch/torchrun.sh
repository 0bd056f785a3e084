#!/usr/bin/env bash
# Several machines with torchrun: start this on each of them, the same way. MASTER is the address of any one of them.
#   MASTER=node-a NODES=2 configs/launch/torchrun.sh train train/qwen3_5_4b_sft --data DATASET --out RUN
# One machine: torchrun --nproc_per_node 8 -m nsdrive.cli train train/qwen3_5_4b_sft --data DATASET --out RUN
# After an interruption start it again with --resume; the number of machines may be another one.
set -euo pipefail
: "${MASTER:?the address of the machine where the processes meet}" "${NODES:?the count of machines}"
: "${GPUS:=$(nvidia-smi --list-gpus | wc -l)}" # of this machine
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" # threads of a process on the CPU: torchrun would set 1
exec torchrun \
  --nnodes "$NODES" \
  --nproc_per_node "$GPUS" \
  --rdzv_backend c10d \
  --rdzv_endpoint "$MASTER:29500" \
  --rdzv_id "${RUN_ID:-nsdrive}" \
  -m nsdrive.cli "$@"
