"""`ldmsid evaluate RESULTS... --truth DIR`: folders of finished pictures by one ruler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .cli_evaluate_measure import MeasureOptions, Measuring
from .errors import ConfigError
from .evaluation.pairing import Matching, Pair, list_files, match, pairs_by_name, read_pair_list
from .evaluation.pictures import PICTURE_ENDINGS, check_same_size, picture_size, read_picture
from .evaluation.report_sheet import TRUTH
from .evaluation.summary import Evaluation


def find_pairs(truth: Path, pairs: Path | None) -> tuple[Pair, ...]:
    """The pairs of a folder of truths, by name or by a list.

    Raises:
        ConfigError: If there is none.
    """
    truths = list_files(truth, PICTURE_ENDINGS, "PNG or TIFF truths")
    return pairs_by_name(truths) if pairs is None else read_pair_list(pairs, truths)


def route_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; those that share one, or could be taken for the truth, in full."""
    names = [folder.resolve().name for folder in folders]
    often = Counter(names)
    return [
        name if often[name] == 1 and name != TRUTH else str(folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _check_sizes(matchings: dict[str, Matching]) -> None:
    for matching in matchings.values():
        for pair, path in matching.files.items():
            check_same_size(
                picture_size(path), picture_size(pair.truth), str(path), str(pair.truth)
            )


def evaluate_results(
    folders: Sequence[Path],
    *,
    truth: Path,
    pairs: Path | None = None,
    options: MeasureOptions,
) -> Evaluation:
    """Score every folder of results against the same truths.

    Args:
        folders: Of PNG or TIFF results; the first is what the others are compared with.
        truth: Folder of truths.
        pairs: CSV list of pairs; None matches by name.
        options: Of measuring.

    Raises:
        ConfigError: If a folder is empty, nothing matches, or a file is no picture.
        ShapeError: If the sizes of a result and its truth differ.
        OutputError: If a report is there and may not be replaced.
    """
    names = route_names(folders)
    if len(set(names)) < len(names):
        raise ConfigError(
            f"Expected different folders of results, found {Counter(names).most_common(1)[0][0]} "
            "twice; name each once."
        )
    wanted = find_pairs(truth, pairs)
    matchings = {}
    for name, folder in zip(names, folders, strict=True):
        files = list_files(folder, PICTURE_ENDINGS, "PNG or TIFF results")
        matchings[name] = match(wanted, files, folder)
    _check_sizes(matchings)
    present = [pair for pair in wanted if any(pair in m.files for m in matchings.values())]
    measuring = Measuring.begin(options, len(present))
    for name, matching in matchings.items():
        measuring.notes += matching.sentences(name)
    for pair in tqdm(present, desc="evaluate", disable=options.quiet):
        routes = {
            name: [read_picture(matching.files[pair])]
            for name, matching in matchings.items()
            if pair in matching.files
        }
        measuring.add(pair, routes, read_picture(pair.truth))
    settings = {
        "results": [str(folder) for folder in folders],
        "truth": str(truth),
        "pairs": "by name" if pairs is None else str(pairs),
    }
    return measuring.finish("Results against their truths", settings)
