"""Dataflow: job options, the distribution of a step's work over machines, and the resulting Beam flags."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from pipelines.engine.step import Needs
from schemas.config import StrictModel
from schemas.errors import InputError

PAGE = "docs/dataflow.md"
MACHINE, GPU_MACHINE = "e2-standard-4", "g2-standard-8"
"""Machines of steps without and with an accelerator; g2 machines hold NVIDIA L4s."""
THREADS = 4
"""Fragments under way at a time in a process whose step takes several: one is read and written while others compute."""
_SMALL = {"e2-micro": 2, "e2-small": 2, "e2-medium": 2}
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")


class DataflowConfig(StrictModel):
    """The options of `--runner dataflow`. The first three are required, and are checked together."""

    project: str = ""
    """The Google Cloud project that pays."""
    region: str = ""
    """Where workers run, as europe-west4: that of the buckets, or reading them costs money."""
    temp_location: str = ""
    """A gs:// folder for what jobs need while they run."""
    staging_location: str | None = None
    """A gs:// folder for our wheel and the job's graph; by default in temp_location."""
    machine_type: str | None = None
    """Of the workers; by default e2-standard-4, or g2-standard-8 for a step with an accelerator."""
    max_workers: int = Field(default=10, ge=1)
    """Machines at most. Limits per host are divided by the processes on so many."""
    disk_gb: int | None = Field(default=None, ge=10)
    """The disk of each machine; by default Dataflow's own."""
    accelerator: str | None = None
    """For steps that can use a GPU, in Beam's words: type:nvidia-l4;count:1;install-nvidia-driver."""
    service_account: str | None = None
    """Whom workers act as; by default the project's Compute Engine account."""
    image: str | None = None
    """Our image in a registry. Without one, every worker installs our wheel as it starts."""
    packages: tuple[str, ...] = ()
    """What workers install besides: wheel files, or names as pip takes them (torch==2.9.0)."""
    network: str | None = None
    """The VPC network of the workers; by default the project's own."""
    subnetwork: str | None = None
    """As regions/REGION/subnetworks/NAME."""
    public_ips: bool = True
    """Whether workers have addresses of their own; without, the subnetwork needs Cloud NAT to reach other hosts."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of the jobs, for bills: {team: data}. lavabeam-step and lavabeam-run are set."""

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for word in (*value, *value.values()):
            if not _LABEL.fullmatch(word):
                raise ValueError(f"{word!r}: a label has at most 63 lower-case letters, digits, '-' and '_'")
        return value

    def check(self) -> None:
        """Raises InputError, once, for all that a job cannot do without."""
        given = {"--project": self.project, "--region": self.region, "--temp-location": self.temp_location}
        if missing := [name for name, value in given.items() if not value]:
            raise InputError(
                f"runner dataflow: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Give all of "
                f"--project MY-PROJECT --region europe-west4 --temp-location gs://MY-BUCKET/temp; see {PAGE}."
            )
        for name, value in (("--temp-location", self.temp_location), ("--staging-location", self.staging_location)):
            if value and not value.startswith("gs://"):
                raise InputError(
                    f"runner dataflow: {name} {value}: expected a folder in a bucket, as gs://BUCKET/temp."
                )
        if not (_installed("google.cloud.storage") and _installed("gcsfs")):
            raise InputError("runner dataflow: apache-beam[gcp] and gcsfs are not installed. Install lavabeam[gcp].")

    def check_place(self, path: str) -> None:
        """Raises InputError for a dataset that workers cannot reach."""
        if not path.startswith("gs://"):
            raise InputError(
                f"{path}: workers on Dataflow cannot reach this place. Copy it to a bucket "
                f"(gcloud storage cp -r {path} gs://MY-BUCKET/) and name it there; a recipe's datasets follow "
                "--folder gs://MY-BUCKET."
            )

    def check_needs(self, name: str, needs: Needs) -> None:
        """Raises InputError for a step whose files are not in an image."""
        if needs.model_files and not self.image:
            raise InputError(
                f"{name}: workers on Dataflow do not have {', '.join(needs.model_files)}. Put it at the same path into "
                f"an image and give --image; see {PAGE}. Or run this step with --runner local."
            )

    def spread(self, needs: Needs) -> Spread:
        """How the work of a step is spread. No process works on two fragments at a time unless its step can."""
        processes = 1 if needs.threads else _cpus(self._machine(needs)) or 1
        machines = self.max_workers
        if needs.most_workers is not None:
            if machines * processes > needs.most_workers:
                processes = 1
            machines = min(machines, needs.most_workers)
        return Spread(machines, processes, THREADS if needs.threads else 1)

    def resources(self, needs: Needs) -> dict[str, str]:
        """Beam's resource hints of the transform that does the step's work."""
        found = {"accelerator": self._accelerator(needs)} if self._accelerator(needs) else {}
        if needs.memory_gb:
            found["min_ram"] = f"{needs.memory_gb * self.spread(needs).processes:g}GiB"
        return found

    def arguments(self, step: str, run: str, needs: Needs, files: list[str]) -> list[str]:
        """Beam's flags for the job of a step's run; `files` are those of `package` (pipelines/engine/package.py)."""
        spread = self.spread(needs)
        labels = {"lavabeam-step": _word(step), "lavabeam-run": _word(run), **self.labels}
        disk = max((size for size in (self.disk_gb, needs.disk_gb) if size), default=None)
        flags = {
            "project": self.project,
            "region": self.region,
            "temp_location": self.temp_location,
            "staging_location": self.staging_location,
            "job_name": job_name(step, run),
            "machine_type": self._machine(needs),
            "max_num_workers": spread.machines,
            "autoscaling_algorithm": "THROUGHPUT_BASED",
            "number_of_worker_harness_threads": spread.threads,
            "disk_size_gb": disk,
            "service_account_email": self.service_account,
            "sdk_container_image": self.image,
            "sdk_location": "container" if self.image else None,
            "network": self.network,
            "subnetwork": self.subnetwork,
        }
        given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        given += [f"--labels={name}={value}" for name, value in labels.items()]
        if spread.processes == 1:
            given.append("--experiments=no_use_multiple_sdk_containers")
        if not self.public_ips:
            given.append("--no_use_public_ips")
        return given + files

    def _machine(self, needs: Needs) -> str:
        return self.machine_type or (GPU_MACHINE if self._accelerator(needs) else MACHINE)

    def _accelerator(self, needs: Needs) -> str:
        if not needs.accelerator:
            return ""
        return self.accelerator or ("" if needs.accelerator == "optional" else needs.accelerator)


@dataclass(frozen=True)
class Spread:
    """Machines at most, worker processes on each, and fragments under way at a time in each process."""

    machines: int
    processes: int
    threads: int

    @property
    def workers(self) -> int:
        """Worker processes at most: what a rate limit is divided among."""
        return self.machines * self.processes


def job_name(step: str, run: str) -> str:
    """Lower-case letters, digits and '-', as Dataflow wants it; the run's id makes it unlike any other."""
    return f"lavabeam-{_word(step)}-{_word(run)}".replace("_", "-")


def job_page(project: str, region: str, job: str) -> str:
    """Where a browser shows a job."""
    return f"https://console.cloud.google.com/dataflow/jobs/{region}/{job}?project={project}"


def is_wheel(package: str) -> bool:
    """Whether one of `packages` is a file, not a name."""
    return package.endswith(".whl")


def check_packages(packages: tuple[str, ...]) -> None:
    """Raises InputError for a wheel that is not there."""
    for package in filter(is_wheel, packages):
        if not Path(package).is_file():
            raise InputError(f"--packages {package}: no such file. Give the path of a wheel, or a name for pip.")


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _cpus(machine: str) -> int | None:
    """The vCPUs that a machine type's name tells (n2-standard-8, e2-custom-4-8192); None where it tells none."""
    found = re.search(r"custom-(\d+)-\d+|-(\d+)(?:-lssd)?$", machine)
    return int(found[1] or found[2]) if found else _SMALL.get(machine)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
