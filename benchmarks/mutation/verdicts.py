"""What became of each mutant, over all sittings: a file of a letter a mutant that a rerun, also in another checkout, goes on from.

A verdict stands as long as its function is the same to the letter of its syntax tree; of a changed function all mutants are run again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# tests/mutants/verdicts.json: {source file: {function: {"hash", "commit", "verdicts": a letter for the mutants 1, 2, ...}}}
Verdicts = dict[str, dict[str, dict[str, str]]]
KILLED, SURVIVED, TIMEOUT, NO_TEST, NOT_RUN = "k", "s", "t", "n", "?"
# mutmut's exit codes: pytest's, and -24 for a mutant that ran into its limit
LETTERS = {
    1: KILLED,
    3: KILLED,
    0: SURVIVED,
    36: TIMEOUT,
    -24: TIMEOUT,
    24: TIMEOUT,
    152: TIMEOUT,
    33: NO_TEST,
    5: NO_TEST,
}
CODES = {KILLED: 1, SURVIVED: 0, TIMEOUT: 36}
MARK = "__mutmut_"
# Before each hash: which mutants a function has. To be raised with decorated.py's rules, or with mutmut's: numbers mean other mutants then.
RULES = "1."
# Of the order in which samples are drawn.
SEED = "attar 0"


def read_verdicts(path: Path) -> Verdicts:
    """Return what earlier sittings wrote down, nothing where there was none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write_verdicts(path: Path, verdicts: Verdicts) -> None:
    """Write them with a line a function, so that a change of code shows as a change of few lines."""
    blocks = []
    for source, functions in sorted(verdicts.items()):
        lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(functions.items())]
        blocks.append(f" {json.dumps(source)}: {{\n" + ",\n".join(lines) + "\n }")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


def restore(folder: Path, verdicts: Verdicts, modules: Iterable[str] = (), *, forget_survivors: bool = False) -> None:
    """Hand earlier verdicts to mutmut, which keeps those of unchanged functions; those it has itself stand.

    With `forget_survivors`, mutants of these modules, or of all, that lived are run again: for when tests have changed.
    """
    for source, functions in verdicts.items():
        path, record = _meta(folder, source)
        codes, hashes = record["exit_code_by_key"], record["hash_by_function_name"]
        for function, entry in functions.items():
            rules, digest = entry["hash"][: len(RULES)], entry["hash"][len(RULES) :]
            if rules != RULES or hashes.setdefault(function, digest) != digest:
                continue
            for number, letter in enumerate(entry["verdicts"], 1):
                key = f"{_module(source)}.{function}{MARK}{number}"
                if codes.get(key) is None:
                    codes[key] = CODES.get(letter)
        _save(path, record)
    for path, record in _metas(folder) if forget_survivors else ():
        codes = record["exit_code_by_key"]
        record["exit_code_by_key"] = {
            key: None if _is_of(key, modules) and LETTERS.get(code) not in (KILLED, TIMEOUT) else code
            for key, code in codes.items()
        }
        _save(path, record)


def undecided(folder: Path, modules: Iterable[str]) -> list[str]:
    """Return the mutants of some modules that have no verdict, by name; a pattern for a module whose mutants are not made yet.

    mutmut runs again whatever it is given by name: a pattern alone would repeat a module's earlier sittings.
    """
    codes = {key: code for _, record in _metas(folder) for key, code in record["exit_code_by_key"].items()}
    names = []
    for module in modules:
        keys = [key for key in codes if _is_of(key, (module,))]
        names += [key for key in keys if codes[key] is None] if keys else [f"{module}.*"]
    return names


def sampled(folder: Path, size: int) -> list[str]:
    """Return the mutants of a random sample that have no verdict, in its order."""
    codes = {key: code for _, record in _metas(folder) for key, code in record["exit_code_by_key"].items()}
    return [key for key in in_random_order(codes)[:size] if codes[key] is None]


def in_random_order(names: Iterable[str]) -> list[str]:
    """Return names in one order for all sittings: its first hundred are a random sample, so are its first thousand.

    Each has its place by itself, so that mutants that come and go move no other.
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())


def sample_verdicts(verdicts: Verdicts) -> list[bool]:
    """Return of the largest random sample without a gap which mutants were killed."""
    letters = {
        f"{_module(source)}.{function}{MARK}{number}": letter
        for source, functions in verdicts.items()
        for function, entry in functions.items()
        for number, letter in enumerate(entry["verdicts"], 1)
    }
    ordered = [letters[name] for name in in_random_order(letters)]
    return [letter in (KILLED, TIMEOUT) for letter in ordered[: [*ordered, NOT_RUN].index(NOT_RUN)]]


def collected(folder: Path, earlier: Verdicts, commit: str) -> Verdicts:
    """Return every verdict that mutmut has now; the commit of a function is the one at which its last verdict came."""
    verdicts: Verdicts = {}
    for path, record in _metas(folder):
        source = str(path.relative_to(folder).with_suffix(""))
        letters: dict[str, dict[int, str]] = {}
        for key, code in record["exit_code_by_key"].items():
            function, _, number = key.removeprefix(f"{_module(source)}.").partition(MARK)
            letters.setdefault(function, {})[int(number)] = NOT_RUN if code is None else LETTERS.get(code, NOT_RUN)
        functions = {}
        for function, by_number in letters.items():
            entry = {
                "hash": RULES + record["hash_by_function_name"].get(function, ""),
                "commit": commit,
                "verdicts": "".join(by_number[number] for number in sorted(by_number)),
            }
            before = earlier.get(source, {}).get(function, {})
            functions[function] = before if before == entry | {"commit": before.get("commit", "")} else entry
        if functions:
            verdicts[source] = functions
    return verdicts


def figures(verdicts: Verdicts) -> dict[str, dict[str, Any]]:
    """Return of each module how many mutants were killed, survived, and were not run."""
    by_module = {}
    for source, functions in sorted(verdicts.items()):
        letters = Counter("".join(entry["verdicts"] for entry in functions.values()))
        killed, not_run = letters[KILLED] + letters[TIMEOUT], letters[NOT_RUN]
        survived = letters.total() - killed - not_run
        by_module[_module(source)] = {
            "killed": killed, "survived": survived, "no_test": letters[NO_TEST], "not_run": not_run, "total": letters.total(),
            "killed_share": round(killed / max(killed + survived, 1), 3),
            "commits": sorted({entry["commit"] for entry in functions.values()}),
        }  # fmt: skip
    return by_module


def survivors(verdicts: Verdicts, modules: Iterable[str] = ()) -> list[str]:
    """Return the names of the mutants that were run and live, of these modules or of all."""
    names = [
        f"{_module(source)}.{function}{MARK}{number}"
        for source, functions in sorted(verdicts.items())
        for function, entry in sorted(functions.items())
        for number, letter in enumerate(entry["verdicts"], 1)
        if letter in (SURVIVED, NO_TEST)
    ]
    return [name for name in names if _is_of(name, modules)]


def _module(source: str) -> str:
    return source.removesuffix(".py").replace("/", ".")


def _is_of(key: str, modules: Iterable[str]) -> bool:
    wanted = tuple(f"{module}." for module in modules)
    return not wanted or key.startswith(wanted)


def _metas(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    return [(path, json.loads(path.read_text())) for path in sorted(folder.rglob("*.py.meta"))]


def _meta(folder: Path, source: str) -> tuple[Path, dict[str, Any]]:
    path = folder / f"{source}.meta"
    if path.is_file():
        return path, json.loads(path.read_text())
    empty: dict[str, Any] = {
        "exit_code_by_key": {}, "hash_by_function_name": {}, "type_check_error_by_key": {}, "durations_by_key": {},
        "estimated_durations_by_key": {},
    }  # fmt: skip
    return path, empty


def _save(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=4))
