"""img2dataset on a list of URLs, in a process of its own. Prints one JSON line: CPU ms per image, images ok.

`python theirs.py keep|encode|unchecked URLS_FILE THREADS`. `encode` resizes and encodes again, as img2dataset does
unless set otherwise; `keep` decodes each picture and keeps its bytes; `unchecked` (its disable_all_reencoding) keeps
whatever came, without a look at it. Needs img2dataset alone, so that it may live in an environment of its own. Its
Downloader is called as its main function calls it, with reading EXIF switched off (ours does not).
"""

import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import pyarrow as pa
from img2dataset.downloader import Downloader
from img2dataset.resizer import Resizer
from img2dataset.writer import ParquetSampleWriter

SIZE = 384
RESIZERS = {
    "keep": lambda: Resizer(SIZE, "no", True, skip_reencode=True),
    "encode": lambda: Resizer(SIZE, "keep_ratio", True),
    "unchecked": lambda: Resizer(SIZE, "no", True, disable_all_reencoding=True),
}


def main() -> None:
    mode, urls, threads = sys.argv[1], Path(sys.argv[2]).read_text().split(), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        reported = measure(mode, urls, threads, folder)
    # Its resizer may leave the stream at /dev/null; the copy made before it ran still leads out.
    os.write(OUT, (json.dumps(reported) + "\n").encode())


def measure(mode: str, urls: list[str], threads: int, folder: str) -> dict:
    shard = f"{folder}/urls.feather"
    table = pa.table({"url": urls})
    with pa.OSFile(shard, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    resizer = RESIZERS[mode]()
    downloader = Downloader(
        sample_writer_class=ParquetSampleWriter,
        resizer=resizer,
        thread_count=threads,
        save_caption=False,
        extract_exif=False,
        output_folder=folder,
        column_list=["url"],
        timeout=10,
        number_sample_per_shard=len(urls),
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )
    before, started = cpu(), time.perf_counter()
    downloader((0, shard))
    used, seconds = cpu() - before, time.perf_counter() - started
    ok = json.loads(Path(folder, "00000_stats.json").read_text())["successes"]
    return {
        "ok": ok,
        "count": len(urls),
        "cpu_ms": round(1000 * used / len(urls), 3),
        "seconds": round(seconds, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    OUT = os.dup(1)
    main()
