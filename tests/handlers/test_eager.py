"""Which models are loaded ahead, where several have a say."""

from __future__ import annotations

import pytest

from handlers.configuration import Configuration, ModelConfig
from handlers.eager import eager, require_preloaded
from handlers.settings import Settings, SettingsError

MODEL = ModelConfig("m", "/models/m")


@pytest.mark.parametrize(
    ("platform", "flag", "own", "preload", "is_eager"),
    [
        (False, None, None, (), True),
        (True, None, None, (), False),
        (False, True, None, (), False),
        (True, False, None, (), True),
        # A model's own word comes before what is said of all, and being named before that.
        (False, False, True, (), False),
        (True, True, False, (), True),
        (True, True, True, ("m",), True),
        (True, True, True, ("other",), False),
    ],
)
def test_the_nearest_word_counts(
    platform: bool, flag: bool | None, own: bool | None, preload: tuple[str, ...], is_eager: bool
) -> None:
    settings = Settings(lazy=flag, preload=preload)
    assert bool(eager([MODEL._replace(is_lazy=own)], settings, is_lazy=platform)) is is_eager


def test_only_models_can_be_preloaded_and_one_that_is_rejected_is_no_mistake_of_the_flag() -> None:
    configuration = Configuration([MODEL], {"odd": "its shape is 7"})
    require_preloaded(Settings(preload=("m", "odd")), configuration)
    with pytest.raises(SettingsError, match="preload names 'n', which is no model; want some of m"):
        require_preloaded(Settings(preload=("m", "n")), configuration)
