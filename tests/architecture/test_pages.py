"""The documentation: generated pages cover everything, pages that people wrote name only what is there, and the check sees when they do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from attar.pipelines.cli.listing import CATALOGUES
from attar.pipelines.recipe.file import shipped_recipes
from attar.stages.catalogue import STAGES
from docs.generate.check import check_links, check_page, mistakes
from docs.generate.commands import commands
from docs.generate.markdown import slug
from docs.generate.methods import FAMILIES
from docs.generate.pages import generated_pages
from docs.generate.plots import ARMS, PANELS, points, recovery_plot
from docs.generate.results import RESULTS, chosen, with_results

ROOT = Path(__file__).parents[2]
TABLE = "6 blocks removed, seed 0"


def test_no_page_names_what_is_not_there() -> None:
    assert not mistakes()


def test_every_stage_has_a_page_with_every_field_and_input() -> None:
    pages = generated_pages()
    for name, stage in STAGES.items():
        page = pages[f"reference/stages/{name}.md"]
        missing = [entry for entry in (*stage.config_type.model_fields, *stage.slots) if f"| `{entry}` |" not in page]
        assert not missing, name
        rows = [
            line.strip("|").split(" | ")
            for line in page.split("\n## Fields\n")[1].splitlines()
            if line.startswith("| `")
        ]
        assert all(row[-1].strip() for row in rows), f"{name}: a field says nothing of itself"
        assert f"[`{name}`]({name}.md)" in pages["reference/stages/index.md"]


def test_every_method_recipe_and_command_has_its_place() -> None:
    pages = generated_pages()
    assert set(FAMILIES) == set(CATALOGUES)
    for family, methods in CATALOGUES.items():
        assert not [name for name in methods if f"\n## {name}\n" not in pages[f"reference/methods/{slug(family)}.md"]]
    for recipe in shipped_recipes():
        assert f"attar run {recipe}" in pages[f"reference/recipes/{recipe}.md"]
        assert f"({recipe}.md)" in pages["reference/recipes/index.md"]
    for command, entry in commands().items():
        section = pages["reference/cli.md"].split(f"\n## attar {command}\n")[1].split("\n## ")[0]
        options = [name for parameter in entry.params for name in parameter.opts if name.startswith("--")]
        assert not [option for option in options if option not in section]
        assert all(getattr(parameter, "help", "") for parameter in entry.params), (
            f"{command}: an argument without a word"
        )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`prune.num_layers`", "`prune.num_layers`: stage prune has no field or input 'num_layers' there"),
        ("`num_layers_removed`", "no stage, field, method, recipe or option has this name"),
        ("`layers: 3`", "no stage, method or recipe has a field 'layers'"),
        ("`--turbo`", "no command of attar has this option"),
        ("`attar fly`", "attar has no command 'fly'"),
        ("```bash\nattar run demo --quickly\n```", "attar run has no option '--quickly'"),
        ("```bash\nattar plan demo --set pruned.config.num_layers=6\n```", "num_layers"),
        ("```bash\nmake coffee\n```", "the Makefile has no target 'coffee'"),
        ("```yaml\na:\n  stage: prune\n  config: {num_layers: 6}\n```", "prune has no field 'num_layers'"),
        ("```yaml\na:\n  stage: prone\n```", "unknown stage 'prone'"),
        (
            "```yaml\na:\n  stage: prune\n  config: {num_blocks: 1}\n  inputs: {weights: b}\n```",
            "prune has no input 'weights'",
        ),
        ("`ATTAR_NOWHERE`", "no source reads this variable"),
        ("`stages/nowhere.py`", "no such file or folder"),
        ("```python\nattar.compress()\n```", "an example uses attar.compress, which is not there"),
        ("<!-- results: nothing: a: all: all -->", "benchmarks/results/nothing.json is not there"),
        ("line\n" * 300, "300 lines; accepted: 250 at most"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(text: str, complaint: str) -> None:
    [line] = check_page("how-to/x.md", text)
    assert line.startswith("docs/how-to/x.md: ") and complaint in line and "\n" not in line


@pytest.mark.parametrize("text", ["`prune.num_blocks`", "`--set`", "`attar run tiny --until pruned`", "`ATTAR_HOME`"])
def test_what_is_there_is_let_through(text: str) -> None:
    assert not list(check_page("how-to/x.md", text))


def test_links_that_lead_nowhere_are_seen() -> None:
    pages = {"a.md": "# One\n\n## Two words", "b/c.md": ""}
    text = "[x](../a.md#two-words) [y](../a.md#three) [z](../gone.md) `[no](link.md)` <https://arxiv.org>"
    lines = list(check_links("b/c.md", text, pages))
    assert [line.split(": ")[1] for line in lines] == ["../a.md#three", "../gone.md"]


def test_a_table_of_results_is_its_file() -> None:
    [entry] = [
        table for table in json.loads((RESULTS / "recovery-6.json").read_text())["tables"] if table["title"] == TABLE
    ]
    row = dict(zip(entry["columns"], entry["rows"][0], strict=True))
    made = with_results(f"<!-- results: recovery-6: {TABLE}: pruned: kl_nats wikitext_test -->")
    assert made.replace(",&nbsp;", ", ").splitlines()[-1] == f"| `pruned` | {row['kl_nats wikitext_test']} |"
    with pytest.raises(ValueError, match="no row 'prooned'"):
        chosen("recovery-6", TABLE, "prooned", "all")


def test_every_result_says_when_where_and_by_what_it_was_made() -> None:
    for path in Path(RESULTS).glob("*.json"):
        result = json.loads(path.read_text())
        parts = [result] if "commit" in result else list(result.values())
        for part in parts:
            assert all(part[key] for key in ("date", "commit", "command")), path.name


def test_the_plot_has_every_size_of_every_arm_within_its_interval() -> None:
    for column, _ in PANELS:
        for arm in ARMS:
            measured = points(arm, column)
            assert [size for size, *_ in measured] == [2, 4, 6, 8, 10], arm
            assert all(low <= value <= high for _, value, low, high in measured), arm
    assert recovery_plot().count("<svg") == 1


def run_benchmark(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    script = folder / "timing.py"
    script.write_text(
        "from pathlib import Path\nfrom result_file import recorded\n\n\ndef main():\n"
        f"{textwrap.indent(body, '    ')}\n\n\nrecorded(main, folder=Path({str(folder)!r}))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])}
    command = [sys.executable, str(script), "--rounds", "3"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_benchmark_writes_what_it_printed_with_where_it_comes_from(tmp_path: Path) -> None:
    body = 'print("one thread")\nprint("| way | s |")\nprint("|---|---|")\nprint("| ours | 1.5 [1.4, 1.6] |")\nprint("done")'
    done = run_benchmark(tmp_path, body)
    assert done.returncode == 0 and "| ours | 1.5 [1.4, 1.6] |" in done.stdout, done.stderr
    result = json.loads((tmp_path / "timing.json").read_text())
    assert result["tables"] == [{"title": "one thread", "columns": ["way", "s"], "rows": [["ours", "1.5 [1.4, 1.6]"]]}]
    assert result["lines"] == ["done"] and result["command"] == "python timing.py --rounds 3"
    assert result["commit"] != "unknown" and result["versions"]["torch"] and result["machine"]["num_cores"] >= 1


def test_a_benchmark_that_fails_writes_nothing(tmp_path: Path) -> None:
    done = run_benchmark(
        tmp_path, 'print("| way | s |")\nprint("|---|---|")\nprint("| ours | 1 |")\nraise SystemExit(3)'
    )
    assert done.returncode == 3 and not (tmp_path / "timing.json").exists()
