"""Help pages in the languages other than English: `python -m tests.browser.help_pages`.

Made of the words that the nodes themselves have in `locales/LANGUAGE/nodeDefs.json`, and of `help.json` beside it, what
is to be known beyond them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "web" / "docs"
HEADINGS = {
    "zh": ("输入", "输出", "名称", "说明", "更详细的英文说明在插件的 web/docs 文件夹中。"),
    "ja": ("入力", "出力", "名前", "説明", "より詳しい英語の説明はパックの web/docs にあります。"),
    "ko": ("입력", "출력", "이름", "설명", "더 자세한 영어 설명은 팩의 web/docs에 있습니다."),
}
"""Language -> headings of the inputs and outputs, of a table's columns, and where there is more."""


def pages() -> Iterator[tuple[Path, str]]:
    """Where each page lies, as ComfyUI's frontend asks for it, and what it says."""
    for language in HEADINGS:
        folder = ROOT / "locales" / language
        words, more = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("nodeDefs.json", "help.json")
        )
        for node, entry in words.items():
            yield PAGES / node / f"{language}.md", page(node, entry, more.get(node, []), language)


def page(node: str, entry: dict[str, Any], more: list[str], language: str) -> str:
    """Title, picture, what the node is for, its sockets, and what is to be known beyond them."""
    inputs, outputs, name, text, elsewhere = HEADINGS[language]
    parts = [f"# {entry['display_name']}", f"![{entry['display_name']}]({node}.jpg)", entry["description"]]
    for heading, group in ((inputs, "inputs"), (outputs, "outputs")):
        if rows := [f"| {each['name']} | {each['tooltip']} |" for each in entry.get(group, {}).values()]:
            parts += [f"## {heading}", "\n".join([f"| {name} | {text} |", "|---|---|", *rows])]
    return "\n\n".join([*parts, *more, f"*{elsewhere}*"]) + "\n"


if __name__ == "__main__":
    for path, content in pages():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
