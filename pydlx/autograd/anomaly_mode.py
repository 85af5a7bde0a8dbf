"""Finding where NaN and infinity come from."""

from __future__ import annotations

from .. import _C


class set_detect_anomaly:
    """Switches anomaly detection on or off; as a context manager it restores the earlier state.

    While on, every operation is checked: the first one that turns finite inputs into NaN or infinity raises an error naming the
    operation and the line, and so does the first backward formula that returns NaN, naming the line of its forward. ``check_nan=False``
    only records lines. Slow: for debugging.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._previous = (_C._anomaly_enabled(), _C._anomaly_checks_nan())
        _C._set_anomaly(mode, check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        _C._set_anomaly(*self._previous)


class detect_anomaly(set_detect_anomaly):
    """``with detect_anomaly():`` — see set_detect_anomaly."""

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True, check_nan)
