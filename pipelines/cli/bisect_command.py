"""`attar bisect`: which stage of a version's lineage changed an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from attar.pipelines.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from attar.pipelines.bisect.bisection import Bisection, Changed
    from attar.pipelines.bisect.chain import Link
    from attar.registry.artifacts.lineage import Ancestor
    from attar.registry.artifacts.store import Store

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
# Changed answers that are printed whole; --json has all.
NUM_SHOWN = 3


def bisect(
    what: Annotated[
        str, typer.Argument(metavar="PROMPT|TASK", help="A task that the version was measured on, else a prompt.")
    ],
    of: Annotated[
        str, typer.Option("--of", metavar="NAME[@ALIAS]", help="Registered version, or the start of a model's key.")
    ],
    form: Annotated[
        str, typer.Option(help="Which form of the version: model, or a graph such as onnx or onnx-int8.")
    ] = "model",
    max_rows: Annotated[int, typer.Option(min=0, help="Questions of the task; 0: all.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 64,
    rebuild: Annotated[
        bool, typer.Option("--rebuild/--no-rebuild", help="Build a model again that gc removed, where it is needed.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Say which stage changed an answer: both texts, and the tokens' probabilities before and behind it."""
    from attar.pipelines.bisect.bisection import bisect_chain, datasets_of, task_rows
    from attar.pipelines.bisect.chain import Lineage
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.store import Store
    from attar.registry.tracking.run_record import run_records
    from attar.stages.artifacts.dataset.rows import Row

    home = attar_home()
    store = Store(home)
    last, lineages = _version(of, form, store)
    rows = task_rows(lineages, what, store, max_rows)
    if rows is None:
        names = ", ".join(sorted({str(data.facts["name"]) for data in datasets_of(lineages)})) or "none"
        err.print(f"taken as a prompt; tasks of this version: {names}", style="dim", markup=False, highlight=False)
        rows = [Row("prompt", what)]
    lineage = Lineage(store, run_records(home)[::-1], rebuild)
    bisection = bisect_chain(lineage, last, rows, max_new_tokens)
    if as_json:
        print_json(bisection.as_dict())
        return
    _show(bisection)


def _version(spec: str, form: str, store: Store) -> tuple[Link, list[Ancestor]]:
    """Return the model that is meant, and the lineages in which its tasks lie. Raises ValueError where there is none."""
    from attar.pipelines.bisect.chain import Link
    from attar.registry.artifacts.lineage import trace
    from attar.registry.release.reference import NoSuchVersionError
    from attar.registry.release.versions import read_version

    try:
        version = read_version(spec)
    except NoSuchVersionError as error:
        try:
            artifact = store.find(spec)
        except ValueError:
            raise ValueError(f"{error}; nor does the key of a stored model begin so") from None
        link = Link(store.manifest(artifact)["stage"], artifact.key)
        if not link.is_whole_model:
            raise ValueError(f"{spec}: {link} is a {artifact.kind}; accepted: a model or a graph") from None
        return link, [trace(store, artifact)]
    keys, models = version.keys, version.forms
    by_key = {artifact.key: artifact for artifact in store.artifacts()}
    if form not in models:
        raise ValueError(
            f"{version} has no form {form!r}; accepted: {', '.join(models) or 'none: another tool registered it'}"
        )
    known = [trace(store, by_key[key]) for key in keys.values() if key in by_key]
    return Link(_stage_of(keys[form], by_key, form, store), keys[form]), known


def _stage_of(key: str, by_key: dict[str, Any], form: str, store: Store) -> str:
    """Return the stage that made an artifact, from its manifest or from the record of a run."""
    from attar.registry.tracking.run_record import run_records

    if key in by_key:
        return store.manifest(by_key[key])["stage"]
    for record in run_records(store.root):
        for node in record.nodes.values():
            if node.key == key:
                return node.stage
    raise ValueError(f"the {form} of this version, {key[:12]}, is gone and no run on this machine says how it was made")


def _show(bisection: Bisection) -> None:
    out.print(" > ".join(map(str, bisection.chain)), markup=False, highlight=False)
    answered = f"{bisection.num_asked} of {len(bisection.chain)} models answered"
    if not bisection.changes:
        out.print(f"no stage changed the answer{'s' * (bisection.num_questions > 1)}; {answered}", highlight=False)
        return
    total = f"{len(bisection.changes)} of {bisection.num_questions} answers changed; {answered}"
    print_table(bisection.by_stage() if bisection.num_questions > 1 else [], total)
    for change in bisection.changes[:NUM_SHOWN]:
        _show_change(change)
    if len(bisection.changes) > NUM_SHOWN:
        out.print(f"and {len(bisection.changes) - NUM_SHOWN} more: --json has them", style="dim", highlight=False)


def _show_change(change: Changed) -> None:
    out.print(f"\n{change.stage} changed the answer to: {change.question}", style="bold", markup=False, highlight=False)
    for name, answer, tokens in (
        ("before", change.before, change.before_tokens),
        ("after", change.after, change.after_tokens),
    ):
        verdict = {True: " (right)", False: " (wrong)", None: ""}[answer.is_right]
        out.print(f"{name}{verdict}: {answer.text}", markup=False, highlight=False)
        print_table(_token_rows(tokens))


def _token_rows(tokens: Sequence[Any]) -> list[dict[str, str]]:
    return [
        {
            "token": repr(entry.token),
            "before": "" if entry.before is None else f"{entry.before:.3f}",
            "after": "" if entry.after is None else f"{entry.after:.3f}",
        }
        for entry in tokens
    ]
