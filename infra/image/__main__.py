"""Lay out one of the trees that become the layers of the image."""

from __future__ import annotations

import argparse
from pathlib import Path

from infra.image import libraries, product, system


def main() -> None:
    parser = argparse.ArgumentParser(prog="infra.image", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_libraries(commands.add_parser("libraries", help="make a venv that pip filled fit for serving"))
    _add_system(commands.add_parser("system", help="lay out what of this system Python and the libraries need"))
    _add_product(commands.add_parser("product", help="lay out a source tree, and write the bill of materials"))
    arguments = parser.parse_args()
    arguments.run(arguments)


def _add_libraries(command: argparse.ArgumentParser) -> None:
    command.add_argument("root", type=Path, help="the directory that will become /")
    command.add_argument("--venv", type=Path, required=True, help="where the venv will be, below that")
    command.add_argument("--frontends", default=" ".join(libraries.FRONTENDS), help="model formats to keep besides IR")
    command.set_defaults(run=lambda given: libraries.prepare(given.root, given.venv, given.frontends))


def _add_system(command: argparse.ArgumentParser) -> None:
    command.add_argument("root", type=Path, help="the directory that will become /")
    command.add_argument("--libraries", type=Path, required=True, help="the tree of the libraries")
    command.set_defaults(run=lambda given: system.lay_out(given.root, given.libraries))


def _add_product(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path)
    command.add_argument("root", type=Path, help="the directory that will become /")
    command.add_argument("--venv", type=Path, required=True, help="where the venv will be")
    command.add_argument("--below", type=Path, action="append", default=[], help="a tree that lies below this one")
    command.set_defaults(run=lambda given: product.lay_out(given.source, given.root, given.venv, given.below))


if __name__ == "__main__":
    main()
