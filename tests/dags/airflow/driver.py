"""Runs DAGs with `dag.test()` in Airflow's interpreter: a line of JSON in, a line of JSON out. Logs go to stderr.

The first line out is about the DAGs: import errors, and the schedule, tasks, parameters of each.
"""

import json
import os
import sys
from datetime import UTC, datetime

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
sys.path.insert(0, folder)

from airflow.dag_processing.dagbag import DagBag  # noqa: E402 - it prints on import


def answer(value):
    answers.write(json.dumps(value, default=str) + "\n")
    answers.flush()


def facts(dag):
    tasks = {task.task_id: [task.pool, task.retries, task.execution_timeout] for task in dag.tasks}
    params = {name: {**param.schema, "description": param.description} for name, param in dag.params.items()}
    return {"tasks": tasks, "params": params, "doc": dag.doc_md, "max_active_runs": dag.max_active_runs}


def run(order):
    date = order["date"] and datetime.fromisoformat(order["date"]).replace(tzinfo=UTC)
    done = bag.dags[order["dag"]].test(logical_date=date, run_conf=order["conf"])
    return {one.task_id: one.state for one in done.get_task_instances()}


bag = DagBag(folder)
answer({"errors": bag.import_errors, "dags": {name: facts(dag) for name, dag in bag.dags.items()}})
for line in sys.stdin:
    try:
        answer(run(json.loads(line)))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
