"""A shipped recipe with one field changed again and again; what was made before is taken from the store.

python examples/sweep_cuts.py
"""

import attar


def main() -> None:
    """Cut the tiny model at each of three blocks and print what is left of it."""
    for block in (0, 1, 2):
        changes = [f"pruned.config.blocks=[{block}]", "pruned.config.num_blocks=0"]
        run = attar.run("tiny", overrides=changes, until="pruned", is_quiet=True).raise_for_failure()
        pruned = run["pruned"]
        print(f"without block {block}: {pruned.facts.num_parameters:,} parameters, {pruned.path}")


if __name__ == "__main__":
    main()
