"""### Old versions are removed, weekly

`lavabeam gc` of every dataset: versions older than `older_than`, files that no version names, what killed runs left.
The newest version and what a living run reads stay. `gc_dry_run` says what would be removed.
"""

from _lavabeam import collect_garbage
from _lavabeam_airflow import SETTINGS, command, settings_of_dag
from airflow.sdk import dag

DATASETS = ("images", "conversations", "samples", "pretrain_samples")


@dag(
    "lavabeam_gc",
    schedule=SETTINGS["gc_schedule"],
    **settings_of_dag(__doc__, "folder", *DATASETS, "older_than", "gc_dry_run"),
)
def gc() -> None:
    for role in DATASETS:
        command(collect_garbage(role), task_id=f"gc_{role}")


gc()
