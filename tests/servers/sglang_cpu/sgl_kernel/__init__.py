"""Stands in for SGLang's compiled kernels on a CPU without AMX, where none of them is called: only their import must succeed."""


def __getattr__(name: str):
    if name.endswith("_cpu"):

        def missing(*args, **kwargs):
            raise NotImplementedError(f"this CPU build of SGLang has no kernel {name}")

        return missing
    raise AttributeError(name)
