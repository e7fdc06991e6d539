"""Every byte of the pictures is checked whenever there are new ones: a DAG of your own over `lavabeam` commands."""

from _lavabeam import Run
from _lavabeam_airflow import IMAGES, command, settings_of_dag
from airflow.sdk import dag


def verify(run: Run) -> list[str]:
    return ["verify", run.dataset("images"), "--json"]


@dag("lavabeam_verify", schedule=[IMAGES], **settings_of_dag(__doc__, "folder", "images"))
def verify_pictures() -> None:
    command(verify)


verify_pictures()
