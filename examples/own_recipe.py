"""A recipe built in Python: a small random model loses one block, then another; the two runs are compared figure by figure.

python examples/own_recipe.py
"""

import attar

NODES = {
    "original": attar.node("ingest_model", source="random:llama?num_blocks=4&hidden_size=32&seed=0"),
    "questions": attar.node("ingest_data", source="jsonl:shipped/facts.jsonl", max_rows=8, heldout_fraction=0.5),
    "prose": attar.node("ingest_data", source="text:shipped/prose.txt"),
    "smaller": attar.node("prune", model="original", blocks=[1]),
    "scores": attar.node(
        "evaluate",
        model="smaller",
        text="prose",
        config={"timing": {"num_prompt_tokens": 16}, "perplexity_window": 128},
    ),
}


def main() -> None:
    """Run the recipe with two cuts and print what differs."""
    recipe = attar.Recipe.build("own-recipe", NODES, description="One block less.")
    print(attar.plan(recipe))
    first = attar.run(recipe).raise_for_failure()
    second = attar.run(recipe, overrides=["smaller.config.blocks=[2]"]).raise_for_failure()
    print(second)
    print(attar.compare(first, second))


if __name__ == "__main__":
    main()
