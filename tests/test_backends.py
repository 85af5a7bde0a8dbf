"""The switches of ``pydlx.backends``: those that mean something are the same as other settings, the rest are remembered."""

from __future__ import annotations

import pytest

import pydlx


@pytest.fixture(autouse=True)
def settings_restored():
    yield
    pydlx.backends.cudnn.allow_tf32 = False
    pydlx.set_float32_matmul_precision("high")


def test_tf32_of_products_is_medium_precision():
    matmul = pydlx.backends.cuda.matmul
    assert matmul.allow_tf32 is False
    matmul.allow_tf32 = True
    assert pydlx.get_float32_matmul_precision() == "medium" and matmul.allow_tf32 is True
    matmul.allow_tf32 = False
    assert pydlx.get_float32_matmul_precision() == "high"
    pydlx.set_float32_matmul_precision("highest")
    matmul.allow_tf32 = False
    assert pydlx.get_float32_matmul_precision() == "highest"


def test_tf32_of_convolutions_is_a_switch_of_its_own():
    assert pydlx.backends.cudnn.allow_tf32 is False
    pydlx.backends.cudnn.allow_tf32 = True
    assert pydlx.backends.cudnn.allow_tf32 is True
    assert pydlx.get_float32_matmul_precision() == "high" and pydlx.backends.cuda.matmul.allow_tf32 is False


def test_other_switches_are_remembered():
    pydlx.backends.cudnn.benchmark = True
    assert pydlx.backends.cudnn.benchmark is True
    pydlx.backends.cudnn.benchmark = False
