"""prn-package: make sure that a package is whole, and who made it."""

import argparse
from pathlib import Path

from prn_fast.cli.common import Parser, command
from prn_fast.paths import shown_path

DESCRIPTION = """Check a model package, and sign it with a key of your own.

The manifest lists the sha256 of every file, which detects damage. An attacker can rewrite the manifest, too: only a
signature proves who made the package. Make a key pair once, keep the private key where packages are made, and copy the
public key to the machines at the line:

  prn-package keygen plant.pem                              # writes plant.pem and plant.public.pem
  prn-package sign tiles.prn --key plant.pem
  prn-package verify tiles.prn --public-key plant.public.pem
  export PRN_FAST_PUBLIC_KEY=/etc/plant.public.pem          # from now on, every other package is refused"""


def make_parser() -> argparse.ArgumentParser:
    """Arguments of prn-package."""
    parser = Parser(prog="prn-package", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    keygen = commands.add_parser("keygen", help="make a pair of keys")
    keygen.add_argument(
        "key", type=Path, metavar="KEY.pem", help="file for the private key; the public one is written beside it"
    )
    keygen.add_argument(
        "--passphrase", action="store_true", help="ask for a passphrase and encrypt the private key with it"
    )
    sign = commands.add_parser("sign", help="sign a package")
    sign.add_argument("package", type=Path, metavar="PACKAGE", help="NAME.prn")
    sign.add_argument("--key", type=Path, required=True, metavar="KEY.pem", help="Ed25519 private key")
    verify = commands.add_parser("verify", help="check a package's files, and its signature if a key is given")
    verify.add_argument("package", type=Path, metavar="PACKAGE", help="NAME.prn")
    verify.add_argument(
        "--public-key",
        type=Path,
        metavar="KEY.pem",
        help="Ed25519 public key (default: the file that PRN_FAST_PUBLIC_KEY names, if it is set)",
    )
    return parser


def _passphrase() -> bytes:
    from getpass import getpass

    return getpass("passphrase of the private key: ").encode()


def _keygen(key: Path, encrypted: bool) -> None:
    from prn_fast.signature import make_keys

    public = key.with_name(f"{key.stem}.public{key.suffix}")
    make_keys(key, public, _passphrase() if encrypted else None)
    print(f"{shown_path(key)}: private key, for whoever signs packages; keep it secret")
    print(f"{shown_path(public)}: public key, for the machines that check them")


def _sign(path: Path, key: Path) -> None:
    from prn_fast.package import Package

    package = Package.open(path, check_signature=False)
    package.sign(key, _passphrase)
    engines = len(package.engines)
    print(f"{shown_path(path)}: signed, with {engines} engines; an engine that is added needs a new signature")


def _verify(path: Path, key: Path | None) -> None:
    from prn_fast.package import Package
    from prn_fast.signature import configured_key

    key = key or configured_key()
    package = Package.open(path, public_key=key)
    files = len(package.manifest["files"])
    if key is not None:
        print(f"{shown_path(path)}: all {files} files are as recorded, and signed with the key of {shown_path(key)}")
        return
    unproven = "it is signed, give --public-key to check that" if package.is_signed else "it is not signed"
    print(f"{shown_path(path)}: all {files} files are as recorded; nothing proves who made it: {unproven}")


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    if arguments.action == "keygen":
        _keygen(arguments.key, arguments.passphrase)
    elif arguments.action == "sign":
        _sign(arguments.package, arguments.key)
    else:
        _verify(arguments.package, arguments.public_key)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
