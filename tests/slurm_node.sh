#!/usr/bin/env bash
# scripts/slurm_array.sbatch on a real SLURM: a controller and a node of two pretended GPUs on this machine.
#
#   apt-get install slurm-wlm munge && sudo tests/slurm_node.sh FOLDER [--array=0-1 --time=5 ...] [-- FLAG ...]
#
# Runs the array in FOLDER with `python` of PATH and prints SLURM's account of it. SPEC and OUT are as for the
# script. Ends when the array has, whether it was queued again in between or not.
set -euo pipefail

folder=$(realpath -m -- "${1:?a folder to work in}")
shift
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	options+=("$1")
	shift
done
[ $# -eq 0 ] || shift
script=$(realpath -- "$(dirname -- "$0")/../scripts/slurm_array.sbatch")
node=$(hostname -s)
place=$(mktemp -d)
mkdir -p "$folder" "$place/state" "$place/spool"
chmod 755 "$place"
daemons=()
cleanup() {
	kill "${daemons[@]}" 2>/dev/null || true
	wait || true
	rm -rf "$place"
}
trap cleanup EXIT

dd if=/dev/urandom of="$place/munge.key" bs=1024 count=1 status=none
chmod 600 "$place/munge.key"
mknod "$place/gpu0" c 1 3
mknod "$place/gpu1" c 1 3
echo "Name=gpu File=$place/gpu[0-1]" >"$place/gres.conf"
cat >"$place/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$place/munge.sock
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=8 RealMemory=100000 Gres=gpu:2
PartitionName=low Nodes=$node Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=$node PriorityTier=10 PreemptMode=OFF
CONF
export SLURM_CONF=$place/slurm.conf

munged --foreground --force --key-file="$place/munge.key" --socket="$place/munge.sock" \
	--pid-file="$place/munge.pid" --log-file="$place/munge.log" --seed-file="$place/munge.seed" \
	>"$folder/munged.log" 2>&1 &
daemons+=($!)
until [ -S "$place/munge.sock" ]; do sleep 0.1; done
slurmctld -D >"$folder/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -N "$node" >"$folder/slurmd.log" 2>&1 &
daemons+=($!)
until [ "$(sinfo --noheader --partition=low --format=%t 2>/dev/null)" = idle ]; do sleep 0.2; done

cd "$folder"
job=$(sbatch --parsable "${options[@]}" "$script" "$@")
echo "job $job: SLURM_CONF=$SLURM_CONF"
while squeue --noheader --jobs="$job" 2>/dev/null | grep -q .; do sleep 1; done
scontrol show job "$job" | grep -E 'ArrayTaskId|JobState|Restarts|RunTime'
