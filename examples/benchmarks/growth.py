"""What a data set costs before anything is trained on it: memory and CPU seconds of the data stage, by images.

    python examples/benchmarks/growth.py [--sets 10000x32 50000x32] [--out examples/benchmarks/results/growth]

Each set is made of noise (PNG in parquet files) and read in a process of its own, first from the files, then from the
cache. Memory is what the process holds of its own (``RssAnon`` of Linux) above what its imports hold; the decoded
images are mapped from the cache's file, and their pages are the system's to take back.
"""

import argparse
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from measuring import machine, table, write
from PIL import Image

DIFFERENT = 2000
"""Images that a set repeats; what a decoder does with one does not depend on the others."""
SHARD = 50_000


def resident():
    """Anonymous memory of this process, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


class Peak(threading.Thread):
    """Looks every 20 ms; shorter peaks are missed."""

    def __init__(self):
        super().__init__(daemon=True)
        self.highest = 0.0

    def run(self):
        """Until the process ends."""
        while True:
            self.highest = max(self.highest, resident())
            time.sleep(0.02)


def make(folder, count, pixels):
    """A parquet folder of ``count`` colour images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator, encoded = np.random.default_rng(0), []
    for _ in range(DIFFERENT):
        buffer = io.BytesIO()
        small = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((pixels, pixels), Image.Resampling.BILINEAR).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    folder.mkdir(parents=True)
    shards = range(0, count, SHARD)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for number, begin in enumerate(shards):
        rows = range(begin, min(begin + SHARD, count))
        cells = pa.array([{"bytes": encoded[row % DIFFERENT], "path": None} for row in rows], kind)
        labels = pa.array([row % 10 for row in rows], pa.int64())
        name = f"train-{number:05d}-of-{len(shards):05d}.parquet"
        pq.write_table(pa.table({"image": cells, "label": labels}), folder / name, use_dictionary=False)


def measure(folder):
    """In this process: the data stage of a run."""
    import datasets
    import torch

    from distillkit import SettingsLayer, compress  # with it all that a run imports
    from distillkit.lab import compose, make_run, prepare

    datasets.disable_progress_bars()
    settings = {"dataset.max_train": None, "dataset.image_column": "image"}
    composed = compose(folder, 1, "mtt", "quick", "cpu", [SettingsLayer("test", settings)])
    run = make_run(composed, torch.device("cpu"))
    gc.collect()
    base, peak = resident(), Peak()
    peak.start()
    begin, busy = time.perf_counter(), time.process_time()
    prepared = prepare(run)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    gc.collect()
    time.sleep(0.1)
    found = {
        "seconds": seconds,
        "cpu_seconds": busy,
        "base": base,
        "held": resident() - base,
        "peak": peak.highest - base,
    }
    del compress
    return found | {"images": len(prepared.data.train) + len(prepared.data.validation) + len(prepared.data.test)}


def child(folder, cache):
    environment = {**os.environ, "DISTILLKIT_CACHE": str(cache), "HF_DATASETS_CACHE": str(cache / "hf")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", str(folder)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=["10000x32", "50000x32", "200000x32", "100000x64"])
    parser.add_argument("--out")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    found, rows = {"machine": machine("cpu", "data stage, quick preset, dataset.max_train=null"), "sets": {}}, []
    for name in args.sets:
        count, pixels = (int(number) for number in name.split("x"))
        place = Path(tempfile.mkdtemp(prefix="growth-"))
        try:
            make(place / "set", count, pixels)
            first, again = (child(place / "set", place / "cache") for _ in range(2))
        finally:
            shutil.rmtree(place)
        size = count * 3 * pixels**2 / 2**20
        found["sets"][name] = {"uint8_mb": size, "first": first, "cached": again}
        rows.append(
            [f"{count:,} of {pixels} px", f"{size:.0f}"]
            + [f"{one['cpu_seconds']:.1f}" for one in (first, again)]
            + [f"{one[key]:.0f} ({one[key] / size:.2f})" for one in (first, again) for key in ("peak", "held")]
        )
        print(rows[-1], file=sys.stderr, flush=True)
    head = ["images", "uint8, MB", "CPU seconds, first", "cached"]
    head += ["peak, first", "held, first", "peak, cached", "held, cached"]
    write(args.out, found, table(head, rows))


if __name__ == "__main__":
    main()
