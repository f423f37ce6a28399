"""The files of versions in requirements/ hold what setup.cfg asks for."""

import configparser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def wanted(*extras):
    """What setup.cfg asks for by name, with all the extras that these take in; aelm itself left out."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    found = {}
    for line in "\n".join(texts).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.name == "aelm":
            found |= wanted(*requirement.extras)
        else:
            found[canonicalize_name(requirement.name)] = requirement.specifier
    return found


def pinned(name):
    """``{package: [version]}`` of a file; several versions where they depend on the Python."""
    versions = {}
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


def every_extra():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return list(config["options.extras_require"])


def test_the_lock_holds_a_version_of_everything_that_setup_cfg_asks_for():
    locked = pinned("locked.txt")
    for name, specifier in wanted(*every_extra()).items():
        assert locked.get(name), f"{name} is not in requirements/locked.txt: make lock"
        assert all(version in specifier for version in locked[name]), f"{name}{specifier}: make lock"


def test_the_oldest_versions_are_the_lower_bounds_of_setup_cfg():
    lowest = pinned("lowest.txt")
    for name, specifier in wanted("dev", "gallery").items():
        (bound,) = [part.version for part in specifier if part.operator == ">="]
        assert lowest.get(name), f"{name} is not in requirements/lowest.txt: make lock"
        (version,) = lowest[name]
        assert version in Requirement(f"{name}=={bound}").specifier, (
            f"{name}: {version} in requirements/lowest.txt, {bound} in setup.cfg: make lock, or mend the bound"
        )
