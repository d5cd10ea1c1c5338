"""Libraries of setup.py's extras: if one is missing, the error is one line that names the extra."""

from importlib.util import find_spec

from prn_fast.errors import ConfigError

# Where a library is installed by another name than it is imported by.
_INSTALLED_AS = {
    "sklearn": "scikit-learn",
    "lightning_fabric": "lightning-fabric",
    "cv2": "opencv-python",
    "paho": "paho-mqtt",
    "prometheus_client": "prometheus-client",
}


def require_extra(extra: str, *modules: str) -> None:
    """Make sure that modules can be imported; imports none.

    Args:
        extra: of setup.py, which installs them all.
        modules: top-level names, such as "sklearn".
    Raises:
        ConfigError: one is missing; says what to install.
    """
    for module in modules:
        if find_spec(module) is None:
            name = _INSTALLED_AS.get(module, module)
            raise ConfigError(f"{name} is not installed: pip install 'prn-fast[{extra}]'")
