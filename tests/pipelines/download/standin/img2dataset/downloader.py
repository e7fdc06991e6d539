"""Fetches one URL after the other, last one first: rows come back in another order, as from the package."""

import hashlib
import io
import math
import urllib.request

import pyarrow as pa

NAMES = ("key", "status", "error_message", "width", "height", "original_width", "original_height")


class Downloader:
    def __init__(self, sample_writer_class, resizer, thread_count, save_caption, extract_exif, output_folder,
                 column_list, timeout, number_sample_per_shard, oom_shard_count, compute_hash, verify_hash_type,
                 encode_format, retries, user_agent_token, disallowed_header_directives):  # fmt: skip
        self.options = dict(locals())

    def download_shard(self, row):
        shard_id, path = row
        use = self.options
        with pa.memory_map(path) as file:
            table = pa.ipc.open_file(file).read_all()
        numbers = {name: pa.int32() if name.endswith(("width", "height")) else pa.string() for name in NAMES}
        schema = pa.schema([("url", pa.string()), *numbers.items(), (use["compute_hash"], pa.string())])
        writer = use["sample_writer_class"](shard_id, use["output_folder"], False, 1, schema, use["encode_format"])
        width = math.ceil(math.log10(use["number_sample_per_shard"])) + use["oom_shard_count"]
        for place, url in reversed(list(enumerate(table.column("url").to_pylist()))):
            meta = dict.fromkeys(schema.names) | {"url": url, "key": f"{place:0{width}d}"}
            writer.write(self._fetch(url, meta), meta["key"], None, meta)
        writer.close()

    def _fetch(self, url, meta):
        try:
            with urllib.request.urlopen(urllib.request.Request(url), timeout=self.options["timeout"]) as answer:
                if "noai" in answer.headers.get_all("X-Robots-Tag", []):
                    raise ValueError("Use of image disallowed by X-Robots-Tag directive")
                content = answer.read()
        except Exception as error:
            meta.update(status="failed_to_download", error_message=str(error))
            return None
        made = self.options["resizer"](io.BytesIO(content))
        sizes = dict(zip(("width", "height", "original_width", "original_height"), made[1:5], strict=True))
        failed = {"status": "failed_to_resize", "error_message": made[5]}
        meta.update(failed if made[5] else {"status": "success", **sizes})
        meta[self.options["compute_hash"]] = hashlib.new(self.options["compute_hash"], content).hexdigest()
        return made[0]
