"""What a filename prefix is filled in with."""

from datetime import datetime

import pytest

NOW = datetime(2026, 3, 5, 7, 8, 9)
PROMPT = {
    "1": {"class_type": "LiveTalkAvatar", "inputs": {"width": 448, "image": ["2", 0], "prompt": "a: b/c"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "me.png"}, "_meta": {"title": "My face"}},
}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("video/%date:yyyy-MM-dd%/talk", "video/2026-03-05/talk"),
        ("%date:yy-M-d_h.m.s%", "26-3-5_7.8.9"),
        ("%date:yyyy/MM/dd%/talk", "2026/03/05/talk"),
        ("%date:hh:mm:ss%", "07_08_09"),
        ("talk_%LiveTalkAvatar.width%", "talk_448"),
        ("%My face.image%", "me.png"),
        ("%LiveTalkAvatar.prompt%", "a_ b_c"),
        ("%LiveTalkAvatar.image%_%Nobody.x%_%year%", "%LiveTalkAvatar.image%_%Nobody.x%_%year%"),
        ("100%", "100%"),
    ],
)
def test_placeholders(pack, prefix, expected):
    assert pack("nodes.naming").filled_in(prefix, PROMPT, NOW) == expected


def test_without_a_prompt(pack):
    assert pack("nodes.naming").filled_in("%A.b%/x", None, NOW) == "%A.b%/x"
