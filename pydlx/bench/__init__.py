"""The benchmark program behind ``pydlx bench``: pydlx beside a peer, each in its own process, in alternating rounds.

A *row* is one thing to time (:class:`~pydlx.bench.rows.Row`), a *family* the rows of one file in ``suites/``. A row's
function is written once against PyTorch's API and runs with ``torch`` and ``pydlx`` alike, so adding a row is adding a
line to a suite. ``worker.py`` is the child process, ``runner.py`` the rounds, ``limits.py`` what the machine can do,
``report.py`` tables, JSON and the comparison with a stored result, ``plots.py`` the charts.

Nothing here imports pydlx at module level except ``limits.py`` through the worker: a peer's process must not load it.
"""
