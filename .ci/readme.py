"""Write README.md from nbs/index.ipynb, as `nbdev_readme` does but without Quarto. Nothing is executed.

    python .ci/readme.py            write README.md
    python .ci/readme.py --check    exit 1 when README.md is not what the notebook gives

Figures live in `nbs/figures/`; the notebook refers to `figures/x.png`, README.md to `nbs/figures/x.png`.
"""

import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
notebook = root / 'nbs' / 'index.ipynb'
DIRECTIVE = re.compile(r'^\s*#\|\s*(\w+)\s*:?\s*(.*?)\s*$', re.M)
ABSOLUTE = ('http://', 'https://', 'mailto:', '#', '/', 'data:')


def text(source):
    return source if isinstance(source, str) else ''.join(source)


def rewrite_links(markdown):
    "Relative targets are seen from `nbs/` in the notebook and from the root in README.md. Code is left alone."

    def relink(match):
        target = match[2]
        if target.startswith(ABSOLUTE):
            return match[0]
        return match[1] + (target[3:] if target.startswith('../') else f'nbs/{target}') + match[3]

    parts = re.split(r'(```.*?```|`[^`\n]*`)', markdown, flags=re.S)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'(\]\()([^)\s]+)((?:\s+"[^"]*")?\))', relink, parts[i])
        parts[i] = re.sub(r'((?:src|href)=")([^"]+)(")', relink, parts[i])
    return ''.join(parts)


def show_output(output):
    kind = output['output_type']
    if kind == 'error':
        raise SystemExit(f'{notebook}: a saved output is an error ({output["ename"]}): run the cell again')
    if kind == 'stream':
        return '' if output['name'] == 'stderr' else fence(text(output['text']), '')
    data = output['data']
    if 'text/markdown' in data:
        return rewrite_links(text(data['text/markdown'])).strip()
    if any(mime.startswith('image/') for mime in data):
        raise SystemExit(
            f'{notebook}: a saved output is an image: save it as nbs/figures/NAME.png and show ![](figures/NAME.png)'
        )
    return fence(text(data.get('text/plain', '')), '')


def fence(body, language):
    return f'```{language}\n{body.strip()}\n```' if body.strip() else ''


def show_code(cell):
    flags = dict(DIRECTIVE.findall(text(cell['source'])))
    if 'hide' in flags or flags.get('include') == 'false':
        return
    if 'hide_input' not in flags and flags.get('echo') != 'false':
        yield fence(DIRECTIVE.sub('', text(cell['source'])), 'python')
    if 'hide_output' not in flags and flags.get('output') != 'false':
        yield from map(show_output, cell['outputs'])


def make_readme():
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    parts = ['<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook, not this file. -->']
    for cell in cells:
        if cell['cell_type'] == 'markdown':
            parts.append(rewrite_links(text(cell['source'])).strip())
        if cell['cell_type'] == 'code':
            parts.extend(show_code(cell))
    return '\n\n'.join(part for part in parts if part) + '\n'


if __name__ == '__main__':
    made, readme = make_readme(), root / 'README.md'
    if sys.argv[1:] == ['--check']:
        if not readme.exists() or readme.read_text(encoding='utf-8') != made:
            sys.exit('README.md is not what nbs/index.ipynb gives: run `python .ci/readme.py`')
        print('README.md is what nbs/index.ipynb gives')
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        readme.write_text(made, encoding='utf-8')
