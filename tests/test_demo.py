"""The digits demo: a short run writes everything, and the same seed gives the same bits for any number of threads."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest

import pydlx
from pydlx.demos import digits

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
FILES = ["confusion_matrix.png", "learning_curves.png", "metrics.jsonl", "misclassified.png", "model.safetensors"]

# Away from the source tree, whose pydlx/ has no extension module: children must import the installed package.
ELSEWHERE = tempfile.gettempdir()


def short(out, threads, seed=1, epochs=2):
    arguments = ["demo", "digits", "--quiet", "--epochs", epochs, "--seed", seed, "--threads", threads, "--out", out]
    done = subprocess.run(
        [sys.executable, "-m", "pydlx.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ELSEWHERE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_short_run(tmp_path):
    text = short(tmp_path / "one", 1)
    assert "1797 images: 1258 training" in text
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == FILES
    for name in FILES:
        content = (tmp_path / "one" / name).read_bytes()
        assert not name.endswith(".png") or (content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 10000)
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert 0 < rows[1]["val_accuracy"] <= 1
    # same seed: same bits, whatever the number of threads; another seed: another model
    short(tmp_path / "two", 2)
    short(tmp_path / "other", 2, seed=2)
    model = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == model
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != model


def test_saved_model_can_be_used(tmp_path, capsys):
    result = digits.run(digits.Settings(epochs=4, width=8, out=tmp_path, progress=False))
    assert result.test_accuracy > 0.6
    model = digits.build_model(8)
    model.load_state_dict(pydlx.load_file(tmp_path / "model.safetensors"))
    images, labels = digits.load_digits()
    _, _, test = digits.stratified_split(labels, (0.7, 0.15), 0)
    _, accuracy, _ = digits.evaluate(model, images[test], labels[test])
    assert accuracy == result.test_accuracy
    assert "reloaded, same predictions" in capsys.readouterr().out


def test_split_is_stratified_and_seeded():
    _, labels = digits.load_digits()
    parts = digits.stratified_split(labels, (0.7, 0.15), 3)
    assert sorted(i for part in parts for i in part.tolist()) == list(range(1797))
    for part, share in zip(parts, (0.7, 0.15, 0.15)):
        for label in range(10):
            whole = (labels == label).sum().item()
            assert abs((labels[part] == label).sum().item() - share * whole) <= 1.5
    again = digits.stratified_split(labels, (0.7, 0.15), 3)
    assert [a.tolist() for a in parts] == [b.tolist() for b in again]
    assert parts[0].tolist() != digits.stratified_split(labels, (0.7, 0.15), 4)[0].tolist()


def test_reload_check_notices_a_different_model(tmp_path):
    model = digits.build_model(4)
    images, labels = digits.load_digits()
    _, _, logits = digits.evaluate(model, images[:20], labels[:20])
    path = tmp_path / "m"
    pydlx.save_file({k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    with pytest.raises(RuntimeError, match="expected the reloaded model to predict the same"):
        digits._check_reload(digits.Settings(width=4), path, images[:20], labels[:20], logits)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_full_run_reaches_its_goal(tmp_path, seed):
    result = digits.run(digits.Settings(seed=seed, out=tmp_path, progress=False))
    assert result.test_accuracy >= 0.985
