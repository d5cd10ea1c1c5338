"""Who made a package: an Ed25519 signature of its manifest, which holds the sha256 of every other file.

The signature lies in manifest.sig, 64 bytes as `openssl pkeyutl -verify -rawin` takes them. The keys are the plant's
own, in PEM files.
"""

import os
from collections.abc import Callable
from pathlib import Path

from prn_fast.errors import ConfigError, PackageError
from prn_fast.extras import require_extra
from prn_fast.files import reporting
from prn_fast.manifest import MANIFEST, SIGNATURE

# Names the PEM file of the public key that every package which is opened must have been signed with.
KEY_VARIABLE = "PRN_FAST_PUBLIC_KEY"


def configured_key() -> Path | None:
    """The public key that the environment requires packages to be signed with; None if it names none."""
    value = os.environ.get(KEY_VARIABLE)
    if value == "":
        raise ConfigError(f"{KEY_VARIABLE} is empty; name the PEM file of a public key, or unset it")
    return None if value is None else Path(value)


def make_keys(private: Path, public: Path, passphrase: bytes | None = None) -> None:
    """Make a new pair of keys and write each into a PEM file, the private one readable by its owner only.

    Args:
        private, public: the files; neither may exist.
        passphrase: encrypts the private key's file; None leaves it as it is.
    Raises:
        ConfigError: a file exists, or cryptography is not installed.
        StorageError: a file cannot be written.
    """
    require_extra("sign", "cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for path in (private, public):
        if path.exists():
            raise ConfigError(f"{path}: exists; a key is never overwritten, choose another name")
    key = Ed25519PrivateKey.generate()
    encryption = (
        serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    open_text = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for path, content, permissions in ((private, secret, 0o600), (public, open_text, 0o666)):
        with reporting(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions), "wb") as file:
            file.write(content)


def signature_of(content: bytes, key: Path, ask: Callable[[], bytes] | None = None) -> bytes:
    """Signature of a manifest's bytes.

    Args:
        content: the manifest.
        key: PEM file of an Ed25519 private key.
        ask: gives the passphrase of a key that is encrypted.
    Raises:
        ConfigError: the key cannot be read or is of another kind, or cryptography is not installed.
    """
    require_extra("sign", "cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = _read_key(key)
    try:
        try:
            private = serialization.load_pem_private_key(pem, None)
        except TypeError:  # it is encrypted
            if ask is None:
                raise ConfigError(f"{key}: is encrypted, and nobody was asked for its passphrase") from None
            private = serialization.load_pem_private_key(pem, ask())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{key}: cannot be read as a private key in PEM, or the passphrase is wrong") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{key}: is not an Ed25519 key; make one with prn-package keygen")
    return private.sign(content)


def require_signature(package: Path, content: bytes, key: Path) -> None:
    """Refuse a package whose manifest was not signed with a key.

    Args:
        package: its folder.
        content: the bytes of its manifest, as they were read.
        key: PEM file of the Ed25519 public key.
    Raises:
        PackageError: not signed, or the signature does not fit.
        ConfigError: the key cannot be read or is of another kind, or cryptography is not installed.
    """
    require_extra("sign", "cryptography")
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = serialization.load_pem_public_key(_read_key(key))
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{key}: cannot be read as a public key in PEM") from None
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{key}: is not an Ed25519 key; make one with prn-package keygen")
    file = package / SIGNATURE
    if not file.is_file():
        raise PackageError(
            f"{package}: is not signed, and {key} asks for it; sign it: prn-package sign {package} --key KEY"
        )
    try:
        public.verify(file.read_bytes(), content)
    except OSError as error:
        raise PackageError(f"{file}: cannot be read ({error.strerror})") from None
    except InvalidSignature:
        raise PackageError(
            f"{file}: does not fit {MANIFEST} and {key}: signed with another key, altered, or an engine was added "
            f"since; if you trust the package, sign it again: prn-package sign {package} --key KEY"
        ) from None


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror})") from None
