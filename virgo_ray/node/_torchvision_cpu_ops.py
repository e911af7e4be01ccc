"""Lets PyPI's torchvision (linked against CUDA torch) be imported beside a CPU-only torch.

Its compiled operators do not load there, and `import torchvision` then fails with "operator
torchvision::nms does not exist", which takes transformers and vLLM down with it. The image
processors use only torchvision's pure-torch transforms, so defining the schemas of the two missing
operators is enough. It must hold in every Python process of the environment (vLLM starts fresh
ones), hence an import hook installed by a `.pth` file. It does nothing where torch has CUDA or
where torchvision's own operators load.
"""

import importlib.abc
import importlib.util
import sys

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _DefineBeforeTorchvision(importlib.abc.MetaPathFinder):
    """Runs once, when torchvision is first looked up, and finds nothing itself."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _define_missing_schemas()
        return None


def _define_missing_schemas():
    import torch

    if torch.version.cuda or torch.version.hip:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or _is_cpu_build(spec.origin):
        return
    for name, schema in _SCHEMAS.items():
        torch.library.define(f"torchvision::{name}", schema)


def _is_cpu_build(origin):
    """PyTorch's own index marks its CPU wheels `+cpu` in torchvision/version.py."""
    with open(origin.replace("__init__.py", "version.py")) as f:
        return "+cpu" in f.read()


sys.meta_path.insert(0, _DefineBeforeTorchvision())
