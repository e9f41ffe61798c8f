"""Let the documentation site have the repository's own pages, and the files that pages link to.

Links are written as they work in the repository: `../README.md` from a page under docs/, `docs/growth.md` from the
README. The site has docs/ at its top, and everything else at its own path below that. The README gets another name,
since MkDocs takes a README for the index of its folder.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "overview.md", "ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}
PAGES |= {"CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages, and the files outside docs/ that pages link to."""
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / path for path in PAGES)]
    wanted = dict.fromkeys(pages)
    for page in pages:  # which grows by the pages that are linked
        linked = [(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))]
        pages += [file for file in linked if file.suffix == ".md" and file.is_file() and file not in wanted]
        wanted.update(dict.fromkeys(file for file in linked if file.is_file()))
    for file in wanted:
        if files.get_file_from_path(_on_site(file)) is None:
            files.append(File.generated(config, _on_site(file), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between files of the site."""
    source = Path(str(page.file.abs_src_path))
    here = posixpath.dirname(page.file.src_uri)

    def of_site(link: re.Match[str]) -> str:
        linked = (source.parent / link[1]).resolve()
        return posixpath.relpath(_on_site(linked), here) if linked.is_file() else link[1]

    return LINK.sub(of_site, markdown)


def _on_site(file: Path) -> str:
    path = file.relative_to(ROOT).as_posix()
    return PAGES.get(path, path.removeprefix("docs/"))
