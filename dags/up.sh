#!/usr/bin/env bash
# Airflow for a look: sqlite, no login, this machine only. Ctrl-C stops scheduler, api-server and dag-processor.
# Needs `airflow` on the PATH, and `lavabeam` unless lavabeam.yaml says where it is.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
export AIRFLOW_HOME="${AIRFLOW_HOME:-$PWD/.airflow}"
export AIRFLOW__CORE__DAGS_FOLDER="${AIRFLOW__CORE__DAGS_FOLDER:-$here}"
export AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=True
export AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__API__PORT="${PORT:-8080}"
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$AIRFLOW__API__PORT/execution/"
export AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL="${AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL:-30}"
database="sqlite:///$AIRFLOW_HOME/airflow.db?timeout=60" # seconds that a writer waits for another
export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="${AIRFLOW__DATABASE__SQL_ALCHEMY_CONN:-$database}"
airflow db migrate >/dev/null
airflow pools import "$here/pools.json"
echo "http://127.0.0.1:$AIRFLOW__API__PORT shows Airflow once it is up; DAGs come from $AIRFLOW__CORE__DAGS_FOLDER"

# Each in a session of its own: Ctrl-C reaches this script alone, which then ends them in order.
parts=()
stop() {
    trap - INT TERM EXIT
    kill -TERM "${parts[@]}" 2>/dev/null || true
    for _ in $(seq 20); do kill -0 "${parts[@]}" 2>/dev/null || break; sleep 0.5; done
    for part in "${parts[@]}"; do kill -KILL -- "-$part" 2>/dev/null || true; done
    wait
}
trap stop INT TERM EXIT
for part in api-server scheduler dag-processor; do
    setsid airflow "$part" &
    parts+=($!)
done
wait -n || true
