"""`docs/nbs/` from `nbs/`: what a reader needs to see of the notebooks. Nothing is run.

`#|` lines go; what is exported folds under its signature; saved explorers become pictures that `page.js` makes live.
"""

import ast
import html
import json
import re
import shutil
import textwrap
from pathlib import Path

from api import api, names

root = Path(__file__).resolve().parents[2]
DIRECTIVE = re.compile(r'^#\|[ \t]*(.*?)[ \t]*(?:\n|\Z)', re.M)
PAGE = re.compile(r'`(benchmarks/\w+\.md)`')  # named in a text; on the site it has a page
FORMULA = re.compile(r'\n*(\$\$.+?\$\$)\n*', re.S)  # a paragraph of its own
VIEW, STATE = (f'application/vnd.jupyter.widget-{kind}+json' for kind in ('view', 'state'))
COLUMNS = 120  # as many as a line of code may have
ROOMS = {  # folder or package: title of the page
    'tutorials': 'Tutorials',
    'explorers': 'Explorers',
    'render': 'Rendered people',
    'data': 'Data',
    'models': 'Networks and losses',
    'metrics': 'Measuring',
    'training': 'Training',
    'visual': 'Looking',
    'programs': 'Core, demo and commands',
}


def text(source):
    return source if isinstance(source, str) else ''.join(source)


def write(path, content):
    "Only what has changed: Sphinx reads by the time of a file."
    if path.is_file() and path.read_text(encoding='utf-8') == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding='utf-8')


def linked(source, up):
    "Pages of results that a text only names, as links; `up` leads from the text to the root of the site."
    return PAGE.sub(lambda found: f'[{found[0]}]({up}{found[1]})', source)


def markdown(source):
    return {'cell_type': 'markdown', 'metadata': {}, 'source': source}


def title_of(notebook):
    "Title and the line below it."
    first = next(text(c['source']) for c in notebook['cells'] if c['cell_type'] == 'markdown')
    found = re.match(r'# (.+)\n\n?> (.+)', first)
    return found[1], found[2]


def room_of(name):
    "The part of the site to which a notebook belongs: `tutorials/flip`, `30_metrics.ranking`, `00_core`."
    folder, _, rest = name.rpartition('/')
    room = folder or re.sub(r'^\w*?_', '', rest).partition('.')[0]
    return room if room in ROOMS else 'programs'


# ---- outputs


def alive(widget, data, alt):
    "A widget with saved state: its picture, until its own code draws it."
    name = text(data.get('text/plain', '')).strip()
    picture = text(data.get('image/png', '')).replace('\n', '')
    still = f'<img src="data:image/png;base64,{picture}" alt="{html.escape(alt, quote=True)}">' if picture else ''
    view = f'<script type="{VIEW}">{json.dumps(widget)}</script>'
    return f'<div class="still">{still}<p>{html.escape(name)}</p></div>{view}'


def shown(output, states):
    "An output as the site shows it; None where there is nothing to be seen."
    data = output.get('data')
    if output['output_type'] == 'stream' and output['name'] == 'stderr':
        return None
    if not data:
        return output
    widget = data.get(VIEW)
    if widget and widget['model_id'] not in states:  # a bar of progress
        return None
    if widget:
        alt = output['metadata'].get('image/png', {}).get('alt', '')
        data = {'text/html': alive(widget, data, alt)}
    if any(mime.startswith('image/') for mime in data):
        data = {mime: value for mime, value in data.items() if mime.startswith('image/')}
    return {**output, 'data': data, 'metadata': output.get('metadata', {})}


def wraps(output):
    "Whether printed text is prose, whose lines may be broken, and no table that a reader scrolls."
    lines = text(output.get('text') or output.get('data', {}).get('text/plain', '')).splitlines()
    in_columns = sum(bool(re.search(r'\S {2,}\S', line)) for line in lines)
    return in_columns < 2 or max(map(len, lines)) > COLUMNS


def last_words(source):
    "Heading (or none) and the last paragraph of a text cell, without marks: what the next figure shows."
    source = re.sub(r'```.*?```|\$\$.*?\$\$|<!--.*?-->', '', source, flags=re.S)
    blocks = [block.strip() for block in source.split('\n\n')]
    headings = [block.lstrip('#').strip() for block in blocks if block.startswith('#')]
    words = [block for block in blocks if block and block[0] not in '#|<!>']
    plain = lambda x: re.sub(r'[*`]', '', re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', ' '.join(x.split())))
    return plain(headings[-1]) if headings else '', plain(words[-1]) if words else ''


# ---- cells


def code_cell(cell, source, module, flags, states, alt):
    "A code cell, before it the signatures of what it exports."
    source = source.strip('\n')
    outputs = [o for o in (shown(o, states) for o in cell['outputs']) if o]
    printed = [o for o in outputs if 'text' in o or 'text/plain' in o.get('data', {})]
    tags = ['wrapped'] if printed and all(map(wraps, printed)) else []
    folded = {'metadata': {'tags': tags, 'mystnb': {'image': {'alt': alt}}}}
    described = ''
    if 'export' in flags and module:
        described = api(source, module)
        only_imports = all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body)
        label = 'Imports' if only_imports else f'Source of {", ".join(names(source))}'
        tags.append('hide-input')
        folded['metadata']['mystnb'] |= {'code_prompt_show': label, 'code_prompt_hide': label}
    return described, {**cell, **folded, 'source': source, 'outputs': outputs}


def cells_of(notebook, name):
    states = notebook['metadata'].get('widgets', {}).get(STATE, {}).get('state', {})
    states = {key: told for key, told in states.items() if '_esm' in told['state']}  # those that can draw themselves
    module, heading, alt = None, '', ''
    for cell in notebook['cells']:
        source = text(cell['source'])
        if cell['cell_type'] != 'code':
            found, words = last_words(source)
            heading = found or heading
            alt = textwrap.shorten(f'{heading}: {words}' if words else heading, 250, placeholder=' ...')
            up = '../' * (name.count('/') + 1)
            yield markdown(FORMULA.sub(r'\n\n\1\n\n', linked(source, up)))
            continue
        flags = DIRECTIVE.findall(source)
        source = DIRECTIVE.sub('', source)
        for flag in flags:
            if flag.startswith('default_exp'):
                module = f'synthreid.{flag.split()[1]}'
        if 'hide' in flags or not source.strip():
            continue
        described, shown_cell = code_cell(cell, source, module, flags, states, alt)
        if described:
            yield markdown(described)
        told = [o for o in shown_cell['outputs'] if 'text/markdown' in o.get('data', {})]
        if 'echo: false' in flags:
            shown_cell['metadata']['tags'].append('remove-input')
        yield {**shown_cell, 'outputs': [o for o in shown_cell['outputs'] if o not in told]}
        yield from (markdown(text(o['data']['text/markdown']).strip('\n')) for o in told)  # its links lead to pages
    if states:
        saved = json.dumps(notebook['metadata']['widgets'][STATE]).replace('</', '<\\/')
        saved = f'<script type="{STATE}">{saved}</script>'
        output = {'output_type': 'display_data', 'metadata': {}, 'data': {'text/html': saved}}
        cell = {'cell_type': 'code', 'execution_count': None, 'source': 'states', 'outputs': [output]}
        yield {**cell, 'metadata': {'tags': ['remove-input']}}


def where(name, notebook, git_url):
    "The line below the title: module and file."
    found = re.search(r'default_exp (\S+)', json.dumps(notebook['cells'][:2]).replace('"', ' ').replace('\\n', ' '))
    module = f'Module `synthreid.{found[1]}`, made from ' if found else 'Made from '
    return f'{module}[nbs/{name}.ipynb]({git_url}/blob/main/nbs/{name}.ipynb).'


def chapter(path, name, git_url):
    "One notebook as the site's source."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    cells = list(cells_of(notebook, name))
    place = next(i for i, c in enumerate(cells) if c['cell_type'] == 'markdown')
    cells.insert(place + 1, markdown(where(name, notebook, git_url)))
    metadata = {'kernelspec': {'name': 'python3', 'display_name': 'Python', 'language': 'python'}}
    return {'cells': cells, 'metadata': metadata, 'nbformat': 4, 'nbformat_minor': 4}


def rooms(named):
    "A page per room: its notebooks and what each gives."
    for room, title in ROOMS.items():
        mine = [name for name in named if room_of(name) == room]
        rows = [f'- [{named[n][0]}](../nbs/{n}.ipynb): {named[n][1]}' for n in mine]
        tree = ['```{toctree}', ':hidden:', '', *(f'../nbs/{n}' for n in mine), '```']
        yield room, '\n'.join([f'# {title}', '', *rows, '', *tree, ''])


def prepare(app, config):
    "Write `docs/nbs/`, `docs/rooms/`, `docs/benchmarks/` and `docs/front.md`."
    docs = Path(app.srcdir)
    readme = (root / 'README.md').read_text(encoding='utf-8')
    write(docs / 'front.md', linked(readme.partition('-->')[2].lstrip(), ''))
    target = docs / 'nbs'
    named, wanted = {}, {target / 'index.ipynb'}
    for path in sorted((root / 'nbs').rglob('*.ipynb')):
        parts = path.relative_to(root / 'nbs').with_suffix('').parts
        name = '/'.join(parts)
        if name == 'index' or any(part[0] in '_.' for part in parts):
            continue
        named[name] = title_of(json.loads(path.read_text(encoding='utf-8')))
        goal = target / f'{name}.ipynb'
        wanted.add(goal)
        write(goal, json.dumps(chapter(path, name, config.html_theme_options['repository_url']), indent=1))
    for stale in set(target.rglob('*.ipynb')) - wanted:
        stale.unlink()
    shutil.copytree(root / 'nbs' / 'figures', target / 'figures', dirs_exist_ok=True)
    for page in sorted((root / 'benchmarks').glob('*.md')):
        write(docs / 'benchmarks' / page.name, page.read_text(encoding='utf-8'))
    for picture in [f for kind in ('jpg', 'png') for f in (root / 'benchmarks').glob(f'*.{kind}')]:
        shutil.copy2(picture, docs / 'benchmarks')
    for room, content in rooms(named):
        write(docs / 'rooms' / f'{room}.md', content)


def setup(app):
    app.connect('config-inited', prepare)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
