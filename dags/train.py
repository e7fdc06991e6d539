"""### A training set becomes a model

Runs whenever `lavabeam_mix` announces a training set. Every version of a mix has a run folder of its own
(`runs/finetune-7`), so an interrupted run continues and a finished one is not repeated. A projector is trained first
where `pretrain_recipe` and `pretrain_samples` are given and there is none for the newest version of that set.

The checkpoint is evaluated on `questions` and announced as the asset `lavabeam_checkpoint`, unless it answers a smaller
share than `min_accuracy`.
"""

from _lavabeam import accurate_enough, checkpoint_facts, evaluate, finetune, look_at, pretrain
from _lavabeam_airflow import CHECKPOINT, SAMPLES, TRAIN_POOL, announce, command, settings_of_dag
from airflow.sdk import chain, dag

DATA = ("folder", "samples", "pretrain_samples")
TRAINING = (
    "train_recipe",
    "train_settings",
    "pretrain_recipe",
    "pretrain_settings",
    "runs",
    "processes",
    "train_dry_run",
)
EVALUATION = ("questions", "evaluate_options", "min_accuracy")


@dag("lavabeam_train", schedule=[SAMPLES], **settings_of_dag(__doc__, *DATA, *TRAINING, *EVALUATION))
def training() -> None:
    looks = [command(look_at(role), task_id=f"look_at_{role}") for role in ("samples", "pretrain_samples")]
    first = command(pretrain, pool=TRAIN_POOL)
    second = command(finetune, pool=TRAIN_POOL, trigger_rule="none_failed")
    judged = command(evaluate, check=accurate_enough, pool=TRAIN_POOL)
    looks[1] >> first
    chain([looks[0], first], second, judged, announce(CHECKPOINT, "samples", facts=checkpoint_facts))
    second >> judged.downstream_list[0]


training()
