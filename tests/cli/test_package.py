"""prn-package: keys, signatures, and what is refused where a key is configured."""

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prn_fast.build import build_engine
from prn_fast.build.candidate import Candidate
from prn_fast.cli.package import main
from prn_fast.errors import ConfigError, PackageError
from prn_fast.package import Package
from prn_fast.signature import KEY_VARIABLE, make_keys
from tests import needs
from tests.stub_package import add_stub, build_stub, seed_of, write_stub


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; the public one lies beside it."""
    path = tmp_path_factory.mktemp("keys") / "plant.pem"
    assert main(["keygen", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def public(key: Path) -> Path:
    return key.with_name("plant.public.pem")


@pytest.fixture
def stub(tmp_path: Path) -> Package:
    """A package that nobody has signed."""
    return write_stub(tmp_path / "a.prn", seed=1)


@pytest.fixture
def signed(stub: Package, key: Path) -> Package:
    assert main(["sign", str(stub.path), "--key", str(key)]) == 0
    return stub


def test_a_signed_package_is_verified(
    signed: Package, public: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["verify", str(signed.path), "--public-key", str(public)]) == 0
    assert "signed with the key of" in capsys.readouterr().out
    monkeypatch.setenv(KEY_VARIABLE, str(public))
    assert main(["verify", str(signed.path)]) == 0
    assert "signed with the key of" in capsys.readouterr().out
    assert seed_of(Package.open(signed.path)) == 1


def test_without_a_key_verify_says_that_nothing_is_proven(
    stub: Package, key: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["verify", str(stub.path)]) == 0
    assert "all 2 files are as recorded; nothing proves who made it: it is not signed" in capsys.readouterr().out
    assert main(["sign", str(stub.path), "--key", str(key)]) == 0
    assert main(["verify", str(stub.path)]) == 0
    assert "nothing proves who made it: it is signed, give --public-key" in capsys.readouterr().out


def unsigned(package: Package, key: Path) -> None:
    (package.path / "manifest.sig").unlink()


def cut_short(package: Package, key: Path) -> None:
    file = package.path / "manifest.sig"
    file.write_bytes(file.read_bytes()[:-1])


def signed_with_another_key(package: Package, key: Path) -> None:
    other = package.path.parent / "other.pem"
    make_keys(other, other.with_suffix(".public"))
    package.sign(other)


def replaced(package: Package, key: Path) -> None:
    """By a package that is whole, with the signature of the one before."""
    signature = (package.path / "manifest.sig").read_bytes()
    write_stub(package.path, seed=2)
    (package.path / "manifest.sig").write_bytes(signature)


def with_another_engine(package: Package, key: Path) -> None:
    add_stub(package, "openvino:int8", "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unsigned, "is not signed"),
        (cut_short, "does not fit"),
        (signed_with_another_key, "does not fit"),
        (replaced, "does not fit"),
        (with_another_engine, "an engine was added since"),
    ],
)
def test_where_a_key_is_configured_what_it_has_not_signed_is_refused(
    signed: Package,
    key: Path,
    public: Path,
    change: Callable[[Package, Path], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    change(signed, key)
    Package.open(signed.path)
    monkeypatch.setenv(KEY_VARIABLE, str(public))
    with pytest.raises(PackageError, match=message):
        Package.open(signed.path)
    assert main(["verify", str(signed.path)]) == 2
    assert message in capsys.readouterr().err
    assert main(["sign", str(signed.path), "--key", str(key)]) == 0
    Package.open(signed.path)


def test_an_altered_file_of_a_signed_package_is_refused(signed: Package, key: Path, public: Path) -> None:
    file = signed.path / "samples.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(PackageError, match="differs from what was recorded"):
        Package.open(signed.path, public_key=public)
    assert main(["sign", str(signed.path), "--key", str(key)]) == 2


def test_a_package_that_was_changed_since_it_was_opened_is_not_signed(signed: Package, key: Path) -> None:
    add_stub(Package.open(signed.path), "openvino:int8", "of somebody else")
    before = (signed.path / "manifest.sig").read_bytes()
    with pytest.raises(PackageError, match="open it again"):
        signed.sign(key)
    assert (signed.path / "manifest.sig").read_bytes() == before


def test_packages_are_made_where_a_key_is_configured(
    tmp_path: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, str(public))
    package = write_stub(tmp_path / "a.prn", seed=1)
    for name in ("openvino:int8", "openvino:fp32"):
        add_stub(package, name, "x")
    assert set(Package.open(package.path, check_signature=False).engines) == {"openvino:int8", "openvino:fp32"}


def test_a_build_says_that_the_signature_no_longer_fits(signed: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    class Verified:
        faults = ()

        def to_dict(self) -> dict:
            return {"metric_change": {"image_auroc": 0.0}}

    class Runs:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *arguments: object) -> None:
            pass

    monkeypatch.setitem(__import__("prn_fast.build").build.BUILDERS, "openvino", f"{__name__}.stub_builds")
    monkeypatch.setattr("prn_fast.build.verify", lambda *arguments: Verified())
    monkeypatch.setattr(f"{__name__}.RUNS", Runs)
    lines: list[str] = []
    build_engine(signed, "openvino", "fp32", progress=lines.append, reference=lambda images: None)  # type: ignore[arg-type]
    assert f"the signature no longer fits, sign again: prn-package sign {signed.path} --key KEY" in lines


RUNS: Callable[[], object] | None = None


def stub_builds(package: Package, precision: str, folder: Path, options: object):  # type: ignore[no-untyped-def]
    """One engine, which a stand-in runs."""
    yield Candidate(build_stub(folder / "0", "x"), {}, stand_in=RUNS)  # type: ignore[arg-type]


def test_the_private_key_is_its_owners_and_is_never_overwritten(
    key: Path, public: Path, capsys: pytest.CaptureFixture
) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes(), public.read_bytes()
    assert main(["keygen", str(key)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (key.read_bytes(), public.read_bytes()) == before


def test_an_encrypted_key_needs_its_passphrase(stub: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.pem"
    monkeypatch.setattr("getpass.getpass", lambda prompt: "right")
    assert main(["keygen", str(secret), "--passphrase"]) == 0
    with pytest.raises(ConfigError, match="is encrypted"):
        stub.sign(secret)
    assert main(["sign", str(stub.path), "--key", str(secret)]) == 0
    Package.open(stub.path, public_key=tmp_path / "secret.public.pem")
    monkeypatch.setattr("getpass.getpass", lambda prompt: "wrong")
    assert main(["sign", str(stub.path), "--key", str(secret)]) == 2


@needs.program("openssl")
def test_openssl_verifies_the_signature(signed: Package, public: Path) -> None:
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    files = ["-in", str(signed.path / "manifest.json"), "-sigfile", str(signed.path / "manifest.sig")]
    assert "Verified Successfully" in subprocess.run([*command, *files], capture_output=True, text=True).stdout


@pytest.mark.parametrize("content", [None, b"", b"no key", "public", "rsa"])
def test_a_key_that_cannot_be_used_is_one_line(
    signed: Package, public: Path, tmp_path: Path, content: bytes | str | None, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "key.pem"
    if content == "public":
        content = public.read_bytes()
    elif content == "rsa":
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

        content = generate_private_key(SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    if content is not None:
        file.write_bytes(content)
    assert main(["sign", str(signed.path), "--key", str(file)]) == 2
    assert main(["verify", str(signed.path), "--public-key", str(file)]) == (0 if content == public.read_bytes() else 2)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"error: {file}: ") for line in lines)
    assert lines


def test_an_empty_variable_is_no_permission(signed: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(ConfigError, match="is empty"):
        Package.open(signed.path)


def test_a_missing_library_names_the_extra(
    signed: Package, key: Path, public: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setenv(KEY_VARIABLE, str(public))
    with pytest.raises(ConfigError, match=r"pip install 'prn-fast\[sign\]'"):
        Package.open(signed.path)
    assert main(["sign", str(signed.path), "--key", str(key)]) == 2
    assert "prn-fast[sign]" in capsys.readouterr().err
    monkeypatch.delenv(KEY_VARIABLE)
    Package.open(signed.path)


def test_the_command_runs_as_a_module(signed: Package) -> None:
    command = [sys.executable, "-m", "prn_fast.cli.package", "verify", str(signed.path)]
    assert "nothing proves who made it" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
