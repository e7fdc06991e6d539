"""### Conversations become a training set

Runs whenever `lavabeam_generate` announces conversations. `mix_recipe` makes the dataset `samples`; with
`pretrain_mix_recipe`, a pretraining set is mixed as well. A mix that gives the same rows makes no new version, and
nothing is trained then.
"""

from _lavabeam import mix, mix_pretrain
from _lavabeam_airflow import CONVERSATIONS, SAMPLES, announce, command, settings_of_dag
from airflow.sdk import chain, dag

PARAMS = ("folder", "samples", "mix_recipe", "mix_settings", "pretrain_samples", "pretrain_mix_recipe")
RUNNING = ("runner", "workers", "beam_options")


@dag("lavabeam_mix", schedule=[CONVERSATIONS], **settings_of_dag(__doc__, *PARAMS, *RUNNING))
def training_sets() -> None:
    chain(command(mix_pretrain), command(mix, trigger_rule="none_failed"), announce(SAMPLES, "samples"))


training_sets()
