"""The documentation site: `sphinx-build -W docs _docs/html`, from the saved notebooks, which are not run.

`ext/notebooks.py` writes the chapters (`docs/nbs/`), `ext/commands.py` a page per command (`docs/commands/`);
git ignores them. Nothing on the site asks another host for anything.
"""

import sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).parent
sys.path.insert(0, str(here / 'ext'))
sys.path.insert(0, str(here.parent))  # the package as it lies here, not as it is installed
settings = ConfigParser(delimiters=['='])
settings.read(here.parent / 'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']

project = settings['title']
author = settings['author']
project_copyright = settings['copyright']
version = release = settings['version']
extensions = ['myst_nb', 'notebooks', 'commands', 'mathml']
exclude_patterns = ['nbs/index.ipynb', 'front.md']  # `index.md` shows them
nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'colon_fence', 'deflist', 'attrs_inline']
myst_heading_anchors = 4
suppress_warnings = ['mystnb.unknown_mime_type', 'myst.header']  # headings of included pages may skip a level
smartquotes = False  # what is quoted is typed
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries = False

html_theme = 'sphinx_book_theme'
html_title = project
html_static_path = ['_static', '../synthreid/visual/static/page.js']
html_css_files = ['site.css']
html_js_files = [('page.js', {'defer': 'defer'})]
html_copy_source = False
html_show_sourcelink = False
html_context = {'default_mode': 'auto'}
html_theme_options = {
    'repository_url': settings['git_url'],
    'use_repository_button': True,
    'use_issues_button': True,
    'use_download_button': False,
    'use_fullscreen_button': False,
    'show_toc_level': 2,
    'home_page_in_toc': True,
    'pygments_light_style': 'a11y-high-contrast-light',
    'pygments_dark_style': 'a11y-high-contrast-dark',
}
