"""Checks every internal link of a site: the file and the place in it that a link names exist.

python .ci/links.py FOLDER
"""

import html.parser
import pathlib
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """The places of a page that links can name, and its own links."""

    def __init__(self, path):
        super().__init__()
        self.places, self.links = set(), set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links |= {given[name] for name in ("href", "src") if given.get(name)}


folder = pathlib.Path(sys.argv[1]).resolve()
pages = {path: Page(path) for path in folder.rglob("*.html") if "_static" not in path.parts}
broken, count = [], 0
for path, page in pages.items():
    for link in page.links:
        parts = urllib.parse.urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        count += 1
        target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        place = urllib.parse.unquote(parts.fragment)
        missing = place and target in pages and place not in pages[target].places
        if not target.is_file() or missing:
            broken.append(f"{path.relative_to(folder)}: {link}")
print(f"{len(pages)} pages, {count} internal links, {len(broken)} broken")
sys.exit("\n".join(sorted(broken)) or None)
