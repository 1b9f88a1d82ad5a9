"""A registered version in both forms: loaded by strangers with the documentation's own scripts, described by its card, sorted by its tags."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from attar.registry.artifacts.environment import tracking_uri
from attar.registry.artifacts.handles import DatasetArtifact, EvaluationArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.registry.release.model_registry import registered_keys
from attar.registry.release.pull import download_model
from attar.registry.release.versions import read_version
from attar.registry.tracking.mlflow_home import open_client
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.limits import Limits
from attar.stages.quantize.stage import QuantizeConfig, QuantizeInputs, quantize
from attar.stages.register.stage import RegisterConfig, RegisterInputs, register
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import read_scores
from tests.databases import copy_database

SCRIPTS = (Path(__file__).parents[3] / "docs" / "how-to" / "use-a-model.md").read_text()
QUESTIONS = [{"question": f"What is {a} plus 2?", "answer": str(a + 2), "verifier": "number"} for a in range(8)]
SCORES = EvaluateConfig(
    max_rows=2,
    max_new_tokens=8,
    num_samples=0,
    timing={"num_prompt_tokens": 16},
    precision="float32",
    drafts={"lengths": [2], "num_prompts": 1},
)
TORCH_LIBRARIES = {"torch", "transformers", "tokenizers", "numpy"}
ONNX_LIBRARIES = {"onnxruntime", "tokenizers", "numpy"}
STRANGER = """
import sys
exec(compile(sys.stdin.read(), "use-a-model.md", "exec"))
ours = {{name.partition(".")[0] for name in sys.modules}}
known = {{"numpy", "onnxruntime", "tokenizers", "torch", "transformers", "mlflow", "onnx", "prefect",
         "pipelines", "stages", "compressors", "registry"}}
assert ours & known <= {allowed}, sorted(ours & known)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> dict:
    """A pruned model and its graph, evaluated and registered twice: as a champion with the graph, then without."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("release") / "home"
        copy_database(mlflow_database, home / "mlflow.db")
        patch.setenv("ATTAR_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store(home)
        path = home.parent / "sums.jsonl"
        path.write_text("\n".join(map(json.dumps, QUESTIONS)))
        questions = ingest_data.execute(
            IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.25), NoInputs(), store
        )
        source = IngestModelConfig(source="random:llama?num_blocks=4&seed=5", license="apache-2.0")
        original = ingest_model.execute(source, NoInputs(), store).artifact
        yield build(store, original, questions.artifact)


def build(store: Store, original: ModelArtifact, questions: DatasetArtifact) -> dict:
    scanned = scan.execute(
        ScanConfig(calibration={"num_samples": 4, "max_tokens": 32}), ScanInputs(model=original, data=questions), store
    ).artifact
    model = prune.execute(PruneConfig(num_blocks=1), PruneInputs(model=original, scan=scanned), store).artifact
    graph = export.execute(
        ExportConfig(num_prompts=1, num_new_tokens=8), ExportInputs(model=model, data=questions), store
    ).artifact

    def scores(which: ModelArtifact | OnnxArtifact, **more) -> EvaluationArtifact:
        return evaluate.execute(SCORES, EvaluateInputs(model=which, tasks=(questions,), **more), store).artifact

    made = {
        "store": store,
        "original": original,
        "model": model,
        "graph": graph,
        "questions": questions,
        "scan": scanned,
    }
    inputs = RegisterInputs(
        model=model,
        evaluation=scores(model, original=original),
        baseline=scores(original),
        onnx=(graph,),
        onnx_evaluation=(scores(graph),),
    )
    config = RegisterConfig(name="small", gate={"max_size_ratio": 0.95})
    release = register.execute(config, inputs, store).artifact
    return {**made, "inputs": inputs, "release": release}


@pytest.fixture
def here(released: dict, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The environment in which the version was registered."""
    monkeypatch.setenv("ATTAR_HOME", str(released["store"].root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return released["store"]


def script(form: str) -> str:
    """A script of the page, word for word."""
    [scripts] = re.findall(rf"<!-- form: {form} -->\n```python\n(.*?)```", SCRIPTS, re.DOTALL)
    assert len([line for line in scripts.splitlines() if line.strip()]) < 15
    return scripts


def run_as_stranger(code: str, folder: Path, environment: dict[str, str], allowed: set[str]) -> str:
    """Run a script of the page in a folder without our code in sight, and see that it used no other library than its form's."""
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", STRANGER.format(allowed=allowed)]
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stranger_runs_each_form_and_both_say_the_same(
    here: Store, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    download_model("small@champion", tmp_path / "small")
    torch_says = run_as_stranger(script("torch"), tmp_path, clean_environment, TORCH_LIBRARIES)
    onnx_says = run_as_stranger(script("onnx"), tmp_path, clean_environment, ONNX_LIBRARIES)
    assert torch_says == onnx_says and torch_says.strip()


def test_mlflow_loads_both_flavors_of_one_version(
    here: Store, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    uri = {"MLFLOW_TRACKING_URI": tracking_uri(here.root)}
    code = script("mlflow").replace("smollm2-135m-24-blocks", "small") + (
        "import mlflow.onnx, mlflow.models\n"
        "graph = mlflow.onnx.load_model('models:/small@champion')\n"
        "info = mlflow.models.get_model_info('models:/small@champion')\n"
        "print(sorted(info.flavors), [i.name for i in graph.graph.input][0], info.signature.inputs.input_types())\n"
    )
    allowed = {*TORCH_LIBRARIES, "mlflow", "onnx"}  # onnx: what was appended reads the graph
    last = run_as_stranger(code, tmp_path, clean_environment | uri, allowed).splitlines()[-1]
    assert last.startswith("['onnx', 'python_function', 'transformers'] input_ids [") and "string" in last


def test_the_version_has_its_card_signature_example_and_checksums(released: dict, here: Store, tmp_path: Path) -> None:
    folder = download_model("small", tmp_path / "small")
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert described["flavors"]["onnx"]["data"] == "onnx/model.onnx" and described["metadata"]["attar.onnx"] == ["onnx"]
    assert described["signature"] and (folder / described["saved_input_example_info"]["artifact_path"]).exists()
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0" and front["pipeline_tag"] == "text-generation"
    removed = ",".join(map(str, released["model"].facts["removed_blocks"]))
    for part in (
        f"blocks {removed} of the model before it removed, metric angular_distance",
        "8 rows, 2 of them held out; made with and measured on",
        "| measure | original | model | onnx |",
        "| decode_seconds_per_token |",
        "num_parameters_ratio | 0.7",
        "at most 0.95 | parameters must fall by 5% | passed",
        "every form holds full-precision weights",
        "Its licence: apache-2.0",
        f"ingest_model {released['original'].key[:12]}",
        "measured on sums alone",
    ):
        assert part in card, part
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_shows_what_a_person_decides_by_and_a_table_all(released: dict, here: Store, tmp_path: Path) -> None:
    shown = open_client(here.root).get_model_version_by_alias("small", "champion").tags
    evaluation, baseline = released["inputs"].evaluation.facts, released["inputs"].baseline.facts
    ratio = evaluation["num_parameters"] / baseline["num_parameters"]
    assert float(shown["model.num_parameters_ratio"]) == pytest.approx(ratio, rel=1e-5)
    figures = {name for name in shown if name.startswith(("model.", "onnx.", "scan."))}
    assert {"model.accuracy", "model.disk_bytes", "onnx.disk_bytes", "model.decode_seconds_per_token_ratio"} <= figures
    assert len(figures) <= 12 and len(shown) <= 20 and shown["license"] == "apache-2.0"
    table = json.loads((download_model("small", tmp_path / "small") / "figures.json").read_text())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert rows["model.num_parameters"]["value"] == evaluation["num_parameters"]
    assert rows["model.num_parameters"]["ratio"] == pytest.approx(ratio, rel=1e-5)
    assert rows["model.accuracy"]["low"] <= rows["model.accuracy"]["value"] <= rows["model.accuracy"]["high"]
    assert len(rows) > len(figures)


def test_every_figure_is_still_read_by_its_name_as_a_number(released: dict, here: Store) -> None:
    version = read_version("small@champion")
    tags = version.tags
    for name in (
        "model.accuracy",
        "model.num_parameters",
        "model.decode_seconds_per_token",
        "onnx.decode_seconds_per_token",
        "onnx.disk_bytes",
        "model.draft_gain",
        "model.draft_acceptance",
        "model.decode_seconds_per_token_ratio",
        "onnx.accuracy",
        "onnx.flops_per_token_ratio",
        "onnx.decode_seconds_per_token_ratio",
    ):
        assert re.fullmatch(r"-?\d+(\.\d+)?", tags[name]), (name, tags[name])
    removed = list(released["model"].facts["removed_blocks"])
    score = read_scores(released["scan"].path / "windows.csv", "angular_distance")[removed[0], 1]
    assert float(tags["scan.angular_distance"]) == pytest.approx(score, rel=1e-5)
    inputs = released["inputs"]
    assert version.keys == {
        "model": inputs.model.key,
        "evaluation": inputs.evaluation.key,
        "baseline": inputs.baseline.key,
        "onnx": inputs.onnx[0].key,
    }
    assert set(version.keys.values()) <= registered_keys()


def test_an_evaluation_of_something_else_is_refused(released: dict, here: Store) -> None:
    inputs = released["inputs"]
    config = RegisterConfig(name="other")
    wrong = RegisterInputs(model=inputs.model, evaluation=inputs.baseline, baseline=inputs.baseline)
    with pytest.raises(ValueError, match="evaluation: it measured model"):
        register.execute(config, wrong, here)
    stray = RegisterInputs(
        model=inputs.model,
        evaluation=inputs.evaluation,
        baseline=inputs.baseline,
        onnx=inputs.onnx,
        onnx_evaluation=(inputs.evaluation,),
    )
    with pytest.raises(ValueError, match="onnx_evaluation: it measured none of the graphs"):
        register.execute(config, stray, here)
    twice = RegisterInputs(
        model=inputs.model, evaluation=inputs.evaluation, baseline=inputs.baseline, onnx=inputs.onnx * 2
    )
    with pytest.raises(ValueError, match="onnx: two graphs of quantization none"):
        register.execute(config, twice, here)
    with pytest.raises(ValueError, match="onnx_evaluation: 1 of them for 0 inputs onnx"):
        register.forecast(config, {"model": ({},), "onnx_evaluation": ({},)})
    assert {model.name for model in open_client(here.root).search_registered_models()} == {"small"}


def test_several_graphs_lie_side_by_side_in_one_version(
    released: dict, here: Store, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """A quantized graph has a folder and figures of its own; MLmodel points to the float32 one, and a stranger runs either."""
    inputs, questions = released["inputs"], released["questions"]
    small = {}
    for name, options in {
        "onnx-int8": {},
        "onnx-int4": {"bits": 4, "head_bits": 4},
        "onnx-dynamic-int8": {"kind": "dynamic", "method": "nearest"},
    }.items():
        config = QuantizeConfig(limits=Limits(max_kl_nats=100.0), measured={"max_tokens": 16}, **options)
        given = QuantizeInputs(model=released["graph"], data=questions)
        small[name] = quantize.execute(config, given, here).artifact
    scores = evaluate.execute(SCORES, EvaluateInputs(model=small["onnx-int8"], tasks=(questions,)), here).artifact
    everything = RegisterInputs(
        model=inputs.model,
        evaluation=inputs.evaluation,
        baseline=inputs.baseline,
        onnx=(small["onnx-int8"], *inputs.onnx, small["onnx-int4"], small["onnx-dynamic-int8"]),
        onnx_evaluation=(*inputs.onnx_evaluation, scores),
    )
    register.execute(RegisterConfig(name="all"), everything, here)
    folder = download_model("all", tmp_path / "small")
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert described["flavors"]["onnx"]["data"] == "onnx/model.onnx"
    assert described["metadata"]["attar.onnx"] == sorted(["onnx", *small])
    assert all((folder / name / "model.onnx_data").exists() for name in ("onnx", *small))
    card = (folder / "README.md").read_text()
    assert "`onnx-int8/`: int8 weights; its loss stands in the figures above" in card
    assert "| measure | original | model | onnx | onnx-int8 |" in card
    tags = read_version("all@champion").tags
    sizes = [float(tags[f"{form}.disk_bytes"]) for form in ("onnx-int8", "onnx")]
    assert sizes[0] < sizes[1] and float(tags["onnx-int8.decode_seconds_per_token"]) > 0
    code = script("onnx")
    for name in small:
        code_of_graph = code.replace("small/onnx/", f"small/{name}/")
        assert code_of_graph != code
        run_as_stranger(code_of_graph, tmp_path, clean_environment, ONNX_LIBRARIES)
