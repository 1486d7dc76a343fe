"""How the cost grows: `python -m bench.scale [SERIES ...]`, clusters of its own on this machine.

    directory   names in one directory           files     files that the metaserver has
    clients     programs at work at once         servers   dataservers, all on this machine
    blocks      block size                       behind    depth of write-behind
    ahead       depth of read-ahead              memory    open files
    start       a dataserver's store             aged      a store overwritten at random
    repair      what is rebuilt and scrubbed

Each series becomes rows of a Markdown table on stdout, and a plot under `--plots`; all figures go
to `--json`.  Sizes are multiplied by `--scale`.  Directories, files and stores are grown while the
server is stopped, by the functions that it uses itself (`namespace`, `blockstore`): a million names
take minutes so, not an hour.  There the metadata has no copies, which would be filled then.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from bench import aging, growing, plot, streaming
from bench.series import Series

ALL: dict[str, Callable[[float], Series]] = {
    series.__name__: series
    for series in (growing.directory, growing.files, growing.memory, growing.start)
    + (streaming.clients, streaming.servers, streaming.blocks, streaming.behind, streaming.ahead)
    + (aging.aged, aging.repair)
}


def shown(value: float) -> str:
    """Three digits."""
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def table(series: Series) -> str:
    """As Markdown."""
    xs = sorted({x for points in series.lines.values() for x, _ in points})
    rows = [
        f"| {series.axis} |" + "".join(f" {shown(x)} |" for x in xs),
        "|---" * (len(xs) + 1) + "|",
    ]
    for what, points in series.lines.items():
        found = dict(points)
        rows.append(f"| {what} |" + "".join(f" {shown(found[x])} |" for x in xs))
    return "\n".join(rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("series", nargs="*", choices=[[], *ALL], help="all, if none is named")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--plots", type=Path, default=Path("docs/scale"))
    parser.add_argument("--json", type=Path, default=Path("build/scale.json"))
    chosen = parser.parse_args()
    chosen.plots.mkdir(parents=True, exist_ok=True)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    for name in chosen.series or ALL:
        found = ALL[name](chosen.scale)
        print(f"\n**{found.title}**\n\n{table(found)}\n", flush=True)
        (chosen.plots / f"{name}.svg").write_text(plot.draw(*found))
        kept[name] = found._asdict()
        chosen.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
