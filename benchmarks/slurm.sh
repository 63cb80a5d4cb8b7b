#!/usr/bin/env bash
# A study on a real Slurm of one node, without accounting, that listens on 127.0.0.1 alone; one task is preempted on the way.
#
#   apt-get install slurmctld slurmd slurm-client munge     # once, as root
#   bash benchmarks/slurm.sh .venv/bin/python 2>&1 | tee benchmarks/results/slurm.log
#
# It keeps all its files, keys and sockets in a new folder of /tmp, and ends what it has started. It must run as root.
set -euo pipefail
python=$(realpath --no-symlinks "${1:-python3}")
root=$(mktemp -d /tmp/einsearch-slurm.XXXXXX)
host=$(hostname -s)
export SLURM_CONF=$root/slurm.conf OMP_NUM_THREADS=1 XDG_CACHE_HOME=$root/cache
started=()

stop() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$root"
}
trap stop EXIT

wait_for() { # SECONDS WORDS COMMAND…
  local limit=$1 words=$2
  shift 2
  for ((i = 0; i < 10 * limit; i++)); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  echo "$words has not come true within $limit s" >&2
  exit 1
}

# Munge refuses folders that others may write, so root's own is used.
chmod 755 "$root"
dd if=/dev/urandom of="$root/munge.key" bs=1024 count=1 status=none
chmod 600 "$root/munge.key"
munged --foreground --force --key-file="$root/munge.key" --socket="$root/munge.socket" --pid-file="$root/munge.pid" \
  --log-file="$root/munge.log" --seed-file="$root/munge.seed" 2>"$root/munge.out" &
started+=($!)
cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmUser=root
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=main Nodes=$host Default=YES MaxTime=60 State=UP
CONF
mkdir "$root/state" "$root/spool"
wait_for 10 "munge" test -S "$root/munge.socket"
slurmctld -D 2>"$root/slurmctld.out" & started+=($!)
wait_for 20 "slurmctld" scontrol ping
slurmd -D -N "$host" 2>"$root/slurmd.out" & started+=($!)
wait_for 20 "a node" sh -c 'sinfo --noheader --format=%T | grep -qx idle'

cat > "$root/study.yaml" <<STUDY
task_settings: {teacher_width: 16, pool_size: 2048, validation_size: 256, batch_size: 64}
structures: [monarch, low-rank]
widths: [16, 32]
seeds: 2
rates: fixed
budget_flops: 4e8
halving: {rungs: 1}
confirm: 0
STUDY
short() { sed -u "s|$root|FOLDER|g; s|$host|NODE|g"; }
ended() { [ "$(sqlite_count)" -ge "$1" ]; }
sqlite_count() {
  "$python" -c "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(
    \"select count(*) from trials where state = 'COMPLETE'\").fetchone()[0])" "$root/slurm/study.db"
}
queue() { squeue --array --format='%.10i %.9P %.10j %.2t %.6M' | short; }

echo "$(sbatch --version), $("$python" -c 'import submitit; print("submitit", submitit.__version__)')"
echo "listening: $(ss -ltn | awk '$4 ~ /:1681[78]$/ { print $4 }' | sort -u | xargs)"
echo "accounting: $(sacct 2>&1 | head -1)"
echo
echo '$ einsearch rank study.yaml --out local --workers 2'
"$python" -m einsearch_cli rank "$root/study.yaml" --out "$root/local" --workers 2 >"$root/local.out" 2>&1
grep -E '^( +(dense|monarch|low-rank),|in all)' "$root/local.out" | short
echo
echo '$ einsearch rank study.yaml --out slurm --engine slurm --engine-option partition=main --engine-option time=10m'
started_s=$SECONDS
"$python" -m einsearch_cli rank "$root/study.yaml" --out "$root/slurm" --engine slurm --engine-option partition=main \
  --engine-option time=10m >"$root/slurm.out" 2>&1 &
study=$!
started+=($study)
wait_for 120 "the end of two runs" ended 2
echo "after $((SECONDS - started_s)) s, $(sqlite_count) of 12 runs have ended:"
queue
task=$(squeue --noheader --array --states=RUNNING --format=%i | sort | head -1)
echo "\$ scancel --signal=TERM $task"
scancel --signal=TERM "$task"
wait_for 60 "another task" sh -c "squeue --noheader --array --format=%i | grep -qvx -e '$task' -e '${task%_*}_1'"
echo "after $((SECONDS - started_s)) s, $(sqlite_count) of 12 runs have ended:"
queue
wait $study || { echo "the study ended with exit code $?"; short <"$root/slurm.out"; exit 1; }
echo "after $((SECONDS - started_s)) s the study has ended:"
grep -E '^( +(dense|monarch|low-rank),|in all)' "$root/slurm.out" | short
wait_for 30 "an empty queue" sh -c '[ -z "$(squeue --noheader)" ]'
echo "runs that were tried again: $(grep -c 'tried again' "$root/slurm.out" || true)"
echo "tasks in the queue: $(squeue --noheader | wc -l); files left in the shared folder: $(find "$root/slurm/.einsearch-slurm" -type f 2>/dev/null | wc -l)"
echo
"$python" - "$root" <<'COMPARE'
import json, sys
from pathlib import Path

def runs(name: str) -> list[str]:
    found = json.loads((Path(sys.argv[1]) / name / "results.json").read_text())["results"]
    return sorted(json.dumps({key: value for key, value in run.items() if key != "elapsed_s"}) for run in found)

local, slurm = runs("local"), runs("slurm")
assert all('"ok"' in run for run in local)
assert local == slurm, "the engines give different results"
print(f"all {len(slurm)} results of both engines are equal")
COMPARE
