#!/usr/bin/env bash
# reasoning-gym 0.1.25.
# `score_answer` is a reward, not a verdict, and its scale differs by task. A wrong answer that contains the right one gets part of the score;
# a right answer behind one blank gets half of it (`gcd`) or all of it (`chain_sum`); any text for `spell_backward` gets a share for
# letters in place, and the right answer followed by more words gets 1.0 there. Neither "above 0" nor "equal to 1" means correct.
# Output seen: gcd: right 1.0, behind a blank 0.5, 'right or 17' 0.143; spell_backward: 'banana' 0.143, 'right or 17' 1.0; chain_sum behind a blank 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import reasoning_gym


def scores(task, *forms):
    data = reasoning_gym.create_dataset(task, size=1, seed=1)
    item = data[0]
    return [round(float(data.score_answer(form.format(right=item["answer"]), item)), 3) for form in forms]


gcd = scores("gcd", "{right}", " {right}", "{right} or 17")
spelled = scores("spell_backward", "{right}", "banana", "{right} or 17")
summed = scores("chain_sum", "{right}", " {right}")
print(f"gcd {gcd}; spell_backward {spelled}; chain_sum {summed}")
assert gcd == [1.0, 0.5, 0.143] and spelled == [1.0, 0.143, 1.0] and summed == [1.0, 1.0], "the behaviour has changed"
PY
