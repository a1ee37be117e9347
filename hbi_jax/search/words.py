"""Warns of queries that a model cannot understand."""

import logging
import unicodedata

from hbi_jax.data.datasets.readers import shown

_log = logging.getLogger(__name__)


def check_script(text: str) -> None:
    """Logs a warning if a text has letters, but no Latin ones: the models of this library learn from English."""
    letters = [character for character in text if character.isalpha()]
    names = {unicodedata.name(character, "?").split()[0].capitalize() for character in letters}
    if letters and "Latin" not in names:
        _log.warning(
            "%s is written in another script (%s): the model was trained with English captions, and what it finds for "
            "other languages is mostly chance; ask in English",
            shown(text),
            ", ".join(sorted(names)),
        )
