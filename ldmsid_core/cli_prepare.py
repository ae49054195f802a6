"""`ldmsid prepare`: a training set becomes shards that training reads crop by crop."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_options import json_option, one_clear_line, overwrite_option, quiet_option

if TYPE_CHECKING:
    from .training.data.prepare import PreparedSet

_MOST_WORKERS = 8


@click.command()
@click.argument("dataset_folder", type=click.Path(path_type=Path))
@click.option("--kind", required=True, type=click.Choice(["sid", "eld", "pairs", "folder"]),
              help="sid: Sony and its lists; eld: one camera's scenes; pairs: pairs.csv (LRD and "
              "others); folder: photographs or RAWs for simulated noise.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Folder for the shards; an unfinished run there is resumed.")  # fmt: skip
@click.option("--split", default="all", show_default=True,
              help="Only this part, such as train, val or test.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=None,
              help=f"Processes; default: one a CPU, at most {_MOST_WORKERS}.")  # fmt: skip
@overwrite_option
@quiet_option
@json_option
@one_clear_line
def prepare(dataset_folder: Path, workers: int | None, **options: Any) -> None:
    """Turn the DATASET_FOLDER, as distributed, into shards for training.

    Files that are missing or damaged are listed and the others go on; the exit code is then 1.
    """
    from tqdm import tqdm

    from .training.data.prepare import prepare_dataset

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    chosen = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
    with tqdm(desc="prepare", unit="shard", disable=quiet) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = prepare_dataset(dataset_folder, workers=chosen, progress=show, **options)
    if as_json:
        click.echo(json.dumps(_report(made)))
    else:
        _print(made, options["output"], quiet=quiet)
    if made.index.skipped or made.changed:
        sys.exit(1)


def _files(count: int, verb: str) -> str:
    """A number of files as the subject of a sentence: is or are, was or were."""
    plural = {"is": "are", "has": "have"}[verb]
    return f"{count} file {verb}" if count == 1 else f"{count} files {plural}"


def _report(made: PreparedSet) -> dict[str, Any]:
    pairs = [pair for _, pair in made.index.pairs]
    return {
        "pairs": len(pairs),
        "shards": len(made.index.shards),
        "made": made.made,
        "kept": made.kept,
        "flagged": dict(Counter(flag for pair in pairs for flag in pair.flags)),
        "missing": made.missing,
        "changed": made.changed,
        "skipped": [skip.__dict__ for skip in made.index.skipped],
    }


def _print(made: PreparedSet, output: Path, *, quiet: bool) -> None:
    from .training.data.pairs import name_some

    found = _report(made)
    if not quiet:
        click.echo(
            f"{output}  {found['pairs']} pairs in {found['shards']} shards, {made.made} made, "
            f"{made.kept} kept"
        )
        for flag, count in found["flagged"].items():
            click.echo(f"flagged {flag}: {count}")
    skipped = made.index.skipped
    if made.missing:
        lost = sum(skip.missing for skip in skipped)
        click.echo(
            f"ldmsid: {_files(len(made.missing), 'is')} missing: {name_some(made.missing)}; pairs "
            f"left out: {lost}",
            err=True,
        )
    for skip in skipped:
        if not skip.missing:
            click.echo(f"ldmsid: left out {skip.name}: {skip.reason}", err=True)
    if made.changed:
        click.echo(
            f"ldmsid: {_files(len(made.changed), 'has')} changed since shards were made of them: "
            f"{name_some(made.changed)}; the shards were kept, --overwrite makes all anew.",
            err=True,
        )
