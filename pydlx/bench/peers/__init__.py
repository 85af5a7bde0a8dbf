"""Peers without PyTorch's names: each module shows the part of torch that rows use, as far as the peer offers it.

A row that needs a name the peer lacks is reported as failed for that peer. Beside torch's names a module may have
``bench_step``, which turns a row's step into the function to time (compiling it, waiting for its result).
"""
