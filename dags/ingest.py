"""### URL lists become pictures

The lists of the run's logical date (parameter `lists`) are appended to the dataset `images`, downloaded and
deduplicated. A date without a list is skipped after `wait_for_lists_s`.

Running a date again does nothing twice: rows of a list that has grown come alone. Dates may be run in any order, so a
backfill is safe: keys begin with the date, and which of several copies is kept does not depend on the order.
"""

from _lavabeam import dedupe, download, import_lists
from _lavabeam_airflow import IMAGES, SETTINGS, announce, command, new_lists, settings_of_dag
from airflow.sdk import chain, dag

PARAMS = ("folder", "images", "lists", "date", "import_options", "download_options", "dedupe_options")
RUNNING = ("runner", "workers", "beam_options")


@dag("lavabeam_ingest", schedule=SETTINGS["ingest_schedule"], **settings_of_dag(__doc__, *PARAMS, *RUNNING))
def ingest() -> None:
    chain(new_lists(), command(import_lists), command(download), command(dedupe), announce(IMAGES, "images"))


ingest()
