"""What a command shows: its own messages, and no other library's advertisements or deprecation warnings."""

import logging
import sys
import warnings

from aelm.command import cli


def test_own_warnings_and_plain_messages_pass():
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        cli.choose_messages()
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.warn_explicit(category.__name__, category, "x.py", 1, module="somebody.else")
            warnings.warn_explicit(f"aelm's {category.__name__}", category, "y.py", 1, module="aelm.module")
    assert [str(one.message) for one in seen] == [
        "aelm's FutureWarning", "aelm's DeprecationWarning", "UserWarning", "aelm's UserWarning",
    ]  # fmt: skip
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    for text, passes in (("Tip: buy this", False), ("GPU available: True", True)):
        assert bool(logger.filter(logging.makeLogRecord({"msg": text}))) == passes


def test_a_user_who_asks_for_warnings_gets_them(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cli.choose_messages()
        warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="somebody.else")
    assert len(seen) == 1
