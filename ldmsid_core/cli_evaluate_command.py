"""The command `ldmsid evaluate`: which options belong to which of its three uses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .cli_options import (
    device_option,
    dtype_option,
    json_option,
    one_clear_line,
    overwrite_option,
    quiet_option,
    seed_option,
    set_threads,
    steps_option,
    threads_option,
)
from .errors import ConfigError
from .evaluation.defaults import ISO, RATIOS, RESAMPLES, SHEETS

_MODEL = ("host", "taming", "steps", "seed", "device", "dtype", "regression", "ablations")
_MEASURE = ("metrics", "lpips_weights", "clip_folder", "nima_weights", "resamples", "sheets")
_REPORT = ("resamples", "sheets", "overwrite")
_COMMON = ("output", "threads", "overwrite", "quiet", "as_json", *_MEASURE)
# Use -> what may be given.
_ALLOWED = {
    "results": {"results", "truth", "pairs", *_COMMON},
    "raws": {"raws", "truth", "pairs", "ratios", *_MODEL, *_COMMON},
    "photographs": {"ratios", "iso", *_MODEL, *_COMMON},
}
_MEANING = {
    "results": "folders of results",
    "raws": "--raws",
    "photographs": "the bundled photographs (neither RESULTS nor --raws)",
}
_FOLDER = click.Path(path_type=Path)


def _option_name(name: str) -> str:
    return "RESULTS" if name == "results" else f"--{name.removeprefix('as_').replace('_', '-')}"


def _check_options(context: click.Context, use: str, output: Path | None) -> None:
    """Refuse what has no meaning for a use.

    Raises:
        ConfigError: Which names the option.
    """
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
        and context.params[name] not in (None, ())
    }
    for name in sorted(given - _ALLOWED[use]):
        raise ConfigError(
            f"Expected no {_option_name(name)} with {_MEANING[use]}, found it; leave it out."
        )
    needs_output = _REPORT if use != "photographs" else (*_MEASURE, "overwrite")
    for name in needs_output:
        # Means of results are printed without a report, and so are their intervals.
        if name in given and output is None and not (name == "resamples" and use != "photographs"):
            raise ConfigError(
                f"Expected --output with {_option_name(name)}, found none; name a folder for the "
                "report."
            )
    if use != "photographs" and "truth" not in given:
        raise ConfigError(
            f"Expected --truth with {_MEANING[use]}, found none; name the folder of truths."
        )


def _one_ratio(text: str) -> float:
    from .cli_evaluate import parse_ratios

    found = parse_ratios(text)
    if len(found) != 1:
        raise ConfigError(
            f"Expected one ratio in --ratios with --raws, found {text}; several go into --pairs."
        )
    return found[0]


@click.command()
@click.argument("results", nargs=-1, type=_FOLDER)
@click.option("--truth", type=_FOLDER, help="Folder of truths, PNG or TIFF.")
@click.option("--raws", type=_FOLDER, help="Folder of RAW files: run the model and its rivals.")
@click.option("--pairs", type=_FOLDER,
              help="CSV result,truth,ratio,group instead of matching names.")  # fmt: skip
@click.option("-o", "--output", type=_FOLDER, default=None,
              help="Folder for the report: page, sheets, plots, CSV, JSON.")  # fmt: skip
@click.option("--ratios", default=RATIOS, show_default=True,
              help="Exposure ratios of the photographs; with --raws one for all files "
              "(default there: from --pairs, else auto).")  # fmt: skip
@click.option("--iso", type=float, default=ISO, show_default=True)
@click.option(
    "--metrics",
    default=None,
    metavar="LIST",
    help="Of psnr_rgb,ssim_y,ssim_rgb,ms_ssim_y,gmsd_y,delta_e_2000; default: all.",
)
@click.option("--lpips-weights", type=_FOLDER, help="Backbone and heads: adds LPIPS.")
@click.option("--clip-folder", type=_FOLDER, help="CLIP of transformers: adds CLIP-IQA.")
@click.option("--nima-weights", type=_FOLDER, help="TorchScript file: adds NIMA.")
@click.option("--resamples", type=click.IntRange(100, 1_000_000), default=RESAMPLES,
              show_default=True, help="Of the bootstrap.")  # fmt: skip
@click.option("--sheets", type=click.IntRange(0, 10_000), default=SHEETS, show_default=True,
              help="At most so many pictures side by side in the report.")  # fmt: skip
@click.option(
    "--host",
    type=click.Path(path_type=Path),
    help="Stable Diffusion: file, folder or name; default: embedded.",
)
@click.option("--taming", type=click.Path(path_type=Path),
              help="Taming file or its name; default: embedded.")  # fmt: skip
@click.option("--regression", type=_FOLDER,
              help="Baseline of `ldmsid train tiny_regression`: adds it as a route.")  # fmt: skip
@click.option("--ablations", type=_FOLDER,
              help="ablations.json of `ldmsid ablate`: adds one route a variant.")  # fmt: skip
@steps_option
@seed_option
@device_option
@dtype_option
@threads_option
@overwrite_option
@quiet_option
@json_option
@click.pass_context
@one_clear_line
def evaluate(context: click.Context, /, **options: Any) -> None:
    """Compare pictures with their truths, or the model with other routes.

    With folders of RESULTS: score each against --truth; the first is what the others are compared
    with. With --raws: enhance RAW files and run classical routes and LibRaw on them. With neither:
    the model against classical routes on photographs it never saw. --regression and --ablations
    add what `ldmsid train` and `ldmsid ablate` made to compare the model with.
    """
    results, raws = options["results"], options["raws"]
    if results and raws is not None:
        raise ConfigError("Expected either RESULTS or --raws, found both; run them one by one.")
    use = "results" if results else "raws" if raws is not None else "photographs"
    _check_options(context, use, options["output"])
    set_threads(options["threads"])
    _USES[use](context, options)


def _measure_options(options: dict[str, Any]) -> Any:
    from .cli_evaluate_measure import MeasureOptions

    names = ("output", "overwrite", "quiet", *_MEASURE)
    return MeasureOptions(**{name: options[name] for name in names})


def _model_options(options: dict[str, Any]) -> Any:
    from .cli_evaluate_models import ModelOptions

    return ModelOptions(**{name: options[name] for name in _MODEL if options[name] is not None})


def _photographs(_context: click.Context, options: dict[str, Any]) -> None:
    from .cli_evaluate import evaluate_model
    from .evaluation.learned import LearnedFiles, build_ruler

    names = ("output", "ratios", "iso", "overwrite", "quiet")
    table = evaluate_model(
        models=_model_options(options), **{name: options[name] for name in names},
        options=_measure_options(options),
    )  # fmt: skip
    if options["as_json"]:
        click.echo(json.dumps(table.rows))
        return
    click.echo(table.to_markdown())
    if options["output"] is None:
        click.echo("More metrics, intervals and pictures: --output FOLDER.")
        click.echo("\n".join(build_ruler(None, LearnedFiles()).absent))
    else:
        click.echo(f"Report: {options['output'] / 'index.html'}")


def _results(_context: click.Context, options: dict[str, Any]) -> None:
    from .cli_evaluate_results import evaluate_results

    evaluation = evaluate_results(
        options["results"], truth=options["truth"], pairs=options["pairs"],
        options=_measure_options(options),
    )  # fmt: skip
    _print(evaluation, options)


def _raws(context: click.Context, options: dict[str, Any]) -> None:
    from .cli_evaluate_raws import evaluate_raws

    by_hand = context.get_parameter_source("ratios") is not ParameterSource.DEFAULT
    evaluation, failures = evaluate_raws(
        options["raws"], truth=options["truth"], pairs=options["pairs"],
        ratio=_one_ratio(options["ratios"]) if by_hand else None, models=_model_options(options),
        options=_measure_options(options),
    )  # fmt: skip
    _print(evaluation, options)
    for failure in failures:
        click.echo(f"ldmsid: {failure}", err=True)
    if failures:
        sys.exit(1)


def _print(evaluation: Any, options: dict[str, Any]) -> None:
    from .evaluation.summary import summary_json, summary_markdown

    click.echo((summary_json if options["as_json"] else summary_markdown)(evaluation))
    if options["output"] is not None and not options["as_json"]:
        click.echo(f"Report: {options['output'] / 'index.html'}")


_USES = {"results": _results, "raws": _raws, "photographs": _photographs}
