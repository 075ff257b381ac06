"""Every node speaks each language that the pack has, and says what its schema says."""

import json
from pathlib import Path

import pytest

from tests.browser.help_pages import HEADINGS, pages
from tests.nodes.test_schema import WIDGETS

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = ("en", "zh", "ja", "ko")


def words(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def keys(entry):
    """All paths to a text."""
    if isinstance(entry, str):
        return {()}
    return {(name, *rest) for name, inner in entry.items() for rest in keys(inner)}


def described(schema):
    """What the schema says, in the form of the locale files."""
    entry = {"display_name": schema.display_name, "description": schema.description}
    inputs = {socket.id: {"name": socket.id, "tooltip": socket.options["tooltip"]} for socket in schema.inputs}
    outputs = {
        str(n): {"name": socket.options["display_name"], "tooltip": socket.options["tooltip"]}
        for n, socket in enumerate(schema.outputs)
    }
    return entry | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def test_these_languages():
    assert sorted(folder.name for folder in LOCALES.iterdir()) == sorted(LANGUAGES)


@pytest.mark.parametrize("node_id", WIDGETS)
def test_english_is_what_the_schema_says(nodes, node_id):
    assert words("en")[node_id] == described(nodes[node_id][1])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", WIDGETS)
def test_everything_is_translated(node_id, language):
    found = words(language)
    assert set(found) == set(WIDGETS)
    assert keys(found[node_id]) == keys(words("en")[node_id])
    assert all(text(found[node_id], path).strip() for path in keys(found[node_id]))


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_tooltips_are_in_their_language(language):
    """Names may be the same (VAE); a sentence never is."""
    english, found = words("en"), words(language)
    for node_id, entry in found.items():
        for path in keys(entry):
            if path[-1] in ("tooltip", "description"):
                assert text(entry, path) != text(english[node_id], path), (node_id, path)
                assert not text(entry, path).isascii(), (node_id, path)


def text(entry, path):
    for name in path:
        entry = entry[name]
    return entry


def test_help_pages_say_what_the_nodes_do_in_every_language():
    """Otherwise: python -m tests.browser.help_pages."""
    made = dict(pages())
    assert {path: path.read_text(encoding="utf-8") for path in made} == made
    assert len(made) == len(WIDGETS) * (len(LANGUAGES) - 1)


@pytest.mark.parametrize("language", sorted(HEADINGS))
def test_help_goes_beyond_the_tooltips(language):
    beyond = json.loads((LOCALES / language / "help.json").read_text(encoding="utf-8"))
    assert set(beyond) <= set(WIDGETS) and len(beyond) > 10
    assert not any(text.isascii() for texts in beyond.values() for text in texts)
