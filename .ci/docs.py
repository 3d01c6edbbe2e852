"""Check what the documentation is built from, as far as that can be told without Quarto (which it does not replace).

    python .ci/docs.py

`_quarto.yml` and its link in `nbs/`; nbdev's own processing of every notebook; title and description; saved errors;
links and pictures; the map of notebooks in the index; a docstring for every exported name. One line for each problem.
Writes only files that git ignores: `nbs/nbdev.yml`, `nbs/sidebar.yml`, `_proc/`.
"""

import inspect
import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import yaml

root = Path(__file__).resolve().parent.parent
nbs = root / 'nbs'
problems = []


def require(condition, where, message):
    if not condition:
        problems.append(f'{where}: {message}')


def find_notebooks():
    "The notebooks that nbdev sees: no part of the path starts with `_` or `.`."
    found = sorted(nbs.rglob('*.ipynb'))
    return [f for f in found if not any(part[0] in '_.' for part in f.relative_to(nbs).parts)]


def text(source):
    return source if isinstance(source, str) else ''.join(source)


# ---- site


def check_site():
    real, link = root / '_quarto.yml', nbs / '_quarto.yml'
    require(
        link.is_symlink() and os.readlink(link) == '../_quarto.yml',
        'nbs/_quarto.yml',
        'expected a symbolic link to ../_quarto.yml',
    )
    config = yaml.safe_load(real.read_text(encoding='utf-8'))
    require(config['project']['type'] == 'website', '_quarto.yml', 'expected project type website')
    require(
        config['metadata-files'] == ['nbdev.yml', 'sidebar.yml'],
        '_quarto.yml',
        'expected metadata-files: [nbdev.yml, sidebar.yml]',
    )
    style = config['format']['html']['css']
    require((nbs / style).is_file(), '_quarto.yml', f'nbs/{style} is missing')


def process_notebooks():
    "What `nbdev_docs` does before it calls Quarto. nbdev's own commands would try to install Quarto."
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs

    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    try:
        processed = proc_nbs(n_workers=0, force=True)
    except Exception as error:  # an import or a `show_doc` that fails
        return problems.append(f'nbdev stopped while processing: {error} ({error.__cause__})')
    pages = set(re.findall(r'\S+\.ipynb', (nbs / 'sidebar.yml').read_text(encoding='utf-8')))
    for notebook in find_notebooks():
        name = notebook.relative_to(nbs)
        require((processed / name).is_file(), f'nbs/{name}', 'nbdev did not process it')
        require(str(name) in pages, f'nbs/{name}', 'not in the sidebar')
        if (processed / name).is_file():
            check_processed(name, json.loads((processed / name).read_text(encoding='utf-8')))


def check_processed(name, notebook):
    first = notebook['cells'][0]
    front = first['cell_type'] == 'raw' and yaml.safe_load(text(first['source']).strip().strip('-'))
    require(
        front and front.get('title'),
        f'nbs/{name}',
        'no title: the first text cell holds `# Title` and `> description`, nothing else',
    )
    require(
        front and front.get('description'),
        f'nbs/{name}',
        'no description: the first text cell holds `# Title` and `> description`, nothing else',
    )


# ---- notebooks


def slug(heading):
    "The anchor that Quarto gives a heading."
    heading = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading)
    explicit = re.search(r'\{#([\w-]+)', heading)
    if explicit:
        return explicit[1]
    plain = re.sub(r'[^\w\s.-]', '', heading.lower()).strip()
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', plain))


def without_code(markdown):
    return re.sub(r'```.*?```|`[^`\n]*`', '', markdown, flags=re.S)


def find_anchors(notebook):
    anchors = set()
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            body = re.sub(r'```.*?```', '', text(cell['source']), flags=re.S)
            anchors |= {slug(heading) for heading in re.findall(r'^#+\s+(.+?)\s*$', body, re.M)}
        elif re.search(r'^#\|\s*export', text(cell['source']), re.M):  # nbdev makes each exported name a heading
            anchors |= {
                name.lower() for name in re.findall(r'^(?:class|def|async def)\s+(\w+)', text(cell['source']), re.M)
            }
    return anchors


def check_links(path, notebook, anchors):
    where = path.relative_to(root)
    body = without_code('\n\n'.join(text(c['source']) for c in notebook['cells'] if c['cell_type'] == 'markdown'))
    targets = re.findall(r'\]\(([^)\s]+)(?:\s+"[^"]*")?\)', body) + re.findall(r'(?:src|href)="([^"]+)"', body)
    for target in targets:
        if re.match(r'\w+:', target):
            continue  # https:, mailto:, attachment: and the like
        file, _, anchor = unquote(target).partition('#')
        goal = (path.parent / file).resolve() if file else path
        require(goal.exists(), where, f'link to {target}: no such file')
        require(goal.is_relative_to(nbs), where, f'link to {target}: outside nbs/, so not on the site')
        if anchor and goal in anchors:
            require(anchor in anchors[goal], where, f'link to {target}: no such heading')


def check_notebooks():
    notebooks = {path: json.loads(path.read_text(encoding='utf-8')) for path in find_notebooks()}
    anchors = {path: find_anchors(notebook) for path, notebook in notebooks.items()}
    for path, notebook in notebooks.items():
        where = path.relative_to(root)
        titles = [
            text(c['source']).strip()
            for c in notebook['cells']
            if c['cell_type'] == 'markdown' and re.search(r'^#\s', text(c['source']), re.M)
        ]
        require(
            titles and re.fullmatch(r'# .+\n\n?> .+(\n\n?(- \w+:.*\n?)+)?', titles[0]),
            where,
            'the cell with `# Title` and `> description` holds more than that, and nbdev would drop the rest',
        )
        for number, cell in enumerate(notebook['cells'], 1):
            for output in cell.get('outputs', ()):
                require(
                    output['output_type'] != 'error',
                    where,
                    f'cell {number}: the saved output is an error ({output.get("ename")})',
                )
        check_links(path, notebook, anchors)
    outputs = [o for c in notebooks[nbs / 'notebooks.ipynb']['cells'] for o in c.get('outputs', ())]
    index = '\n'.join(text(o['data'].get('text/markdown', '')) for o in outputs if 'data' in o)
    for path in notebooks:
        name = path.relative_to(nbs).as_posix()
        require(
            name in ('index.ipynb', 'notebooks.ipynb') or f'({name})' in index,
            'nbs/notebooks.ipynb',
            f'{name} is missing from the map of notebooks: run that page again',
        )


# ---- modules


def check_modules():
    package = root / 'synthreid'
    for path in sorted(package.rglob('*.py')):
        if path.name.startswith('_'):
            continue
        name = '.'.join(path.relative_to(root).with_suffix('').parts)
        module = import_module(name)
        for public in getattr(module, '__all__', ()):
            value = getattr(module, public)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue  # a constant has no docstring
            require(
                (value.__doc__ or '').strip() and not value.__doc__.startswith(f'{public}('),
                name,
                f'{public} has no docstring',
            )


if __name__ == '__main__':
    os.chdir(root)
    sys.path.insert(0, str(root))
    check_site()
    check_notebooks()
    process_notebooks()
    check_modules()
    print('\n'.join(problems) or f'docs: {len(find_notebooks())} notebooks, nothing to complain about')
    sys.exit(1 if problems else 0)
