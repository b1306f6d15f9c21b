"""Ready configurations: `twophase run NAME`."""

from __future__ import annotations

from typing import Any

_CIFAR: dict[str, Any] = {
    # arXiv 2505.13900, section 3; batch 128 and kernel samples are not given there
    "data": {"source": "cifar10", "augment": "crop-flip", "pad": 4},
    "training": {
        "steps": 62560,
        "batch": 128,
        "rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "milestones": [31280, 46920],
    },
    "arms": ["schedule"],
    "kernels": {"probe": 128, "steps": [0, *range(100, 1000, 100), *range(1000, 10001, 500)]},
    "cone": {"tau": [2000, 4000, 6000, 8000], "lags": [100, 500]},
}

_VGG16: dict[str, Any] = {
    **_CIFAR,
    "chaos": {"t0": [0, 500, 1500, 2500, 4000], "t1": [2500, 5000, 10000]},
    "linear": {"switch": [0, 200, 1000, 2000, 5000]},
}

PRESETS: dict[str, dict[str, Any]] = {
    # how it was chosen, and what it does not show: docs/quickstart-choice.md
    "quickstart": {
        "name": "quickstart",
        "data": {"source": "digits", "label_noise": 0.2},
        "model": {"name": "thin-resnet", "widths": [8, 16, 32], "blocks": 1},
        "training": {"steps": 900, "batch": 128, "rate": 0.3, "milestones": [700, 800]},
        # t1 = t0 + 450, so that twins can be compared with equal time left
        "chaos": {"t0": [0, 25, 50, 100, 200, 300, 450, 650], "t1": [450, 475, 500, 550, 650, 750]},
        "kernels": {"probe": 48, "steps": list(range(0, 901, 50))},
        "cone": {"tau": [0, 100, 200, 400, 600], "lags": [50, 100, 200]},
        "linear": {
            "switch": [0, 50, 400],
            "variants": ["taylor", "nonlinear-frozen"],
            "regression": 64,
        },
    },
    "tabular": {
        "name": "tabular",
        "data": {"source": "breast_cancer", "label_noise": 0.2},
        "model": {"name": "mlp", "widths": [64, 64]},
        "training": {"steps": 1200, "batch": 32, "rate": 0.2, "milestones": [900]},
        "chaos": {"t0": [0, 10, 25, 50, 100, 200, 400, 800], "horizons": [400], "draws": 3},
        "kernels": {"steps": list(range(0, 1201, 50))},
        "cone": {"tau": [0, 100, 400, 800], "lags": [50, 100, 200]},
        "linear": {"switch": [0, 50, 400]},
    },
    "gpt-text": {
        "name": "gpt-text",
        "arms": ["constant"],
        "data": {"source": "text", "context": 32, "test": 512, "scored": 512},
        "model": {"name": "gpt", "widths": [32], "blocks": 2},
        "training": {"steps": 1000, "batch": 32, "rate": 0.1},
        "chaos": {"t0": [0, 25, 50, 100, 200, 400], "horizons": [600]},
        # a hundred characters: all outputs of 32 samples would be 40 MB a kernel
        "kernels": {"probe": 32, "outputs": "trace", "steps": list(range(0, 1001, 50))},
        "cone": {"tau": [0, 200, 400, 600], "lags": [50, 100, 200]},
        # a tenth of the rate: with it the loss of the model linearised at step 0 falls
        "linear": {"switch": [0, 100, 400], "arm": "constant", "rate_factor": 0.1},
    },
    "vit-digits": {
        "name": "vit-digits",
        "arms": ["constant"],
        "data": {"source": "digits", "label_noise": 0.2},
        "model": {"name": "vit", "widths": [32], "blocks": 2, "patch": 2},
        # the rate decides: at 0.03 twins stay together, at 0.2 training is unsteady (docs/results)
        "training": {"steps": 800, "batch": 64, "rate": 0.06},
        "chaos": {"t0": [0, 25, 50, 100, 200, 400], "horizons": [400]},
        "kernels": {"probe": 48, "steps": list(range(0, 801, 50))},
        "cone": {"tau": [0, 200, 400, 600], "lags": [50, 100, 200]},
        "linear": {"switch": [0, 100, 400], "arm": "constant"},
    },
    # sized for a quarter of an hour on two cores
    "cifar10-small": {
        "name": "cifar10-small",
        "arms": ["constant"],
        "data": {
            **_CIFAR["data"],
            "train": 10000,
            "test": 5000,
            "scored": 2000,
        },
        "model": {"name": "thin-resnet", "widths": [8, 16, 32], "stride": 2},
        "training": {"steps": 1200, "batch": 128, "rate": 0.1},
        "chaos": {
            "t0": [0, 10, 25, 50, 100, 200, 400, 800],
            "horizons": [400],
            "draws": 3,
            "alphas": 7,
        },
        "kernels": {"probe": 48, "steps": [0, 10, 25, *range(50, 1201, 50)]},
        "cone": {"tau": [0, 100, 200, 400, 800], "lags": [50, 100, 200]},
        "linear": {"switch": [0, 100, 400], "arm": "constant"},
    },
    "resnet20-cifar10": {
        **_CIFAR,
        "name": "resnet20-cifar10",
        "model": {"name": "resnet20"},
        "chaos": {"t0": [0, 100, 200, 300, 500, 1000], "t1": [100, 200, 500, 1000, 2000, 10000]},
        "linear": {"switch": [0, 200, 1000, 2000, 5000]},
    },
    "vgg16-cifar10": {**_VGG16, "name": "vgg16-cifar10", "model": {"name": "vgg16"}},
    "vgg16-dropout-cifar10": {
        **_VGG16,
        "name": "vgg16-dropout-cifar10",
        "model": {"name": "vgg16-dropout"},
    },
}
