"""### What failed for a reason that may pass is tried again, weekly

Downloads that timed out, answers that were refused because a server was busy: rows with the statuses of `retry`
(`transient` means each step's own set). They are made with the options that the dataset recorded. What is new is
announced, and the DAGs behind it run.
"""

from _lavabeam import dedupe, retry_download, retry_generate
from _lavabeam_airflow import CONVERSATIONS, IMAGES, LLM_POOL, SETTINGS, announce, command, settings_of_dag
from airflow.sdk import chain, dag

PARAMS = ("folder", "images", "conversations", "retry", "dedupe_options", "max_cost")
RUNNING = ("runner", "workers", "beam_options")


@dag("lavabeam_retry_failed", schedule=SETTINGS["retry_schedule"], **settings_of_dag(__doc__, *PARAMS, *RUNNING))
def retry_failed() -> None:
    chain(command(retry_download), command(dedupe), announce(IMAGES, "images"))
    chain(command(retry_generate, pool=LLM_POOL), announce(CONVERSATIONS, "conversations"))


retry_failed()
