"""The fuzzer of sidecars begins with one that is good."""

from tests.fuzz import sidecar


def test_a_sidecar_that_nobody_changed_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecar, "json_changed", lambda content, _: content)
    monkeypatch.setattr(sidecar, "header_changed", lambda content, _: content)
    sidecar.case(0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.mp4"]
