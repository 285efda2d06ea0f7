r"""What a GPU machine without a network needs besides the checkout, in parts that are small enough to be carried.

    python examples/gpu/pack.py --data-root DIR --out .gpu --python 3.12 --limit 50    # on a machine with a network

makes ``.gpu/part-0``, ``.gpu/part-1``, ... of at most so many MB each: wheels, and CIFAR-10 in shards of Hub layout.
There, with all parts in place:

    python .gpu/part-0/unpack.py /tmp/gpu && PYTHONPATH=/tmp/gpu/site:. \\
        python examples/gpu/acceptance.py --out "$OUT" --data-root /tmp/gpu/data --seconds 500
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

WHEELS = ("pydantic>=2.7", "platformdirs>=4", "filelock>=3.12", "pyyaml>=6", "rich>=13", "typer>=0.15")
FOR_DATA = ("datasets>=4.0", "pyarrow>=16", "scikit-learn>=1.4", "matplotlib>=3.8")
UNPACK = '''"""Put the wheels and data of all parts where they are used: ``python unpack.py FOLDER``."""
import shutil, sys, zipfile
from pathlib import Path

target = Path(sys.argv[1])
for part in sorted(Path(__file__).parents[1].glob("part-*")):
    for wheel in part.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(target / "site")
    if (part / "data").is_dir():
        shutil.copytree(part / "data", target / "data", dirs_exist_ok=True)
'''


def download(folder, python, names, there):
    """Wheels of ``names`` and of what they need, but torch and what is ``there``, for Linux with that Python."""
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", folder]
    line += ["--python-version", python, "--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"]
    subprocess.run([*map(str, line), *names], check=True)
    for heavy in ("torch-", "nvidia", "triton"):
        for path in folder.glob(f"{heavy}*"):
            path.unlink()
    for path in folder.glob("*.whl"):
        if path.name.split("-")[0].lower().replace("_", "-") in there:
            path.unlink()


def shards(source, folder, limit):
    """The data set's parquet files, cut where they are larger than ``limit`` bytes."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted(source.rglob("*.parquet")):
        if path.stat().st_size <= limit:
            found.setdefault(path.name.split("-")[0], []).append(path)
            continue
        table, pieces = pq.read_table(path), -(-path.stat().st_size // int(0.8 * limit))
        rows = -(-table.num_rows // pieces)
        cut = [table.slice(place * rows, rows) for place in range(pieces)]
        found.setdefault(path.name.split("-")[0], []).extend(cut)
    for split, tables in found.items():
        for place, table in enumerate(tables):
            name = f"{split}-{place:05d}-of-{len(tables):05d}.parquet"
            if isinstance(table, Path):
                shutil.copy(table, folder / name)
            else:
                pq.write_table(table, folder / name, compression="none", use_dictionary=False)
    shutil.copy(source / "README.md", folder / "README.md")


def parts(files, out, limit):
    """Distribute (file, name) over folders of at most ``limit`` bytes, the largest first."""
    sizes = []
    for path, name in sorted(files, key=lambda pair: -pair[0].stat().st_size):
        size = path.stat().st_size
        place = next((index for index, used in enumerate(sizes) if used + size <= limit), len(sizes))
        if place == len(sizes):
            sizes.append(0)
        sizes[place] += size
        target = out / f"part-{place}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (out / "part-0" / "unpack.py").write_text(UNPACK)
    return sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder with cifar10 in Hub layout; without it wheels alone")
    parser.add_argument("--out", type=Path, default=Path(".gpu"))
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--limit", type=float, default=50, help="MB of a part; the checkout travels beside each")
    parser.add_argument("--there", default="", help="what that machine has: numpy,pyarrow,...")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    work, limit = args.out / "work", int(1e6 * args.limit)
    (work / "data").mkdir(parents=True)
    there = {name.strip().lower().replace("_", "-") for name in args.there.split(",")}
    download(work, args.python, WHEELS + (FOR_DATA if args.data_root else ()), there)
    files = [(path, path.name) for path in work.glob("*.whl")]
    if args.data_root:
        shards(args.data_root / "cifar10", work / "data", limit)
        files += [(path, f"data/cifar10/{path.name}") for path in (work / "data").iterdir()]
    sizes = parts(files, args.out, limit)
    shutil.rmtree(work)
    print(f"{len(sizes)} parts of {', '.join(f'{size / 1e6:.0f}' for size in sizes)} MB in {args.out}")


if __name__ == "__main__":
    main()
