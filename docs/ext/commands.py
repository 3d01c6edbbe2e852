"`docs/commands/`: a page per command of `synthreid`, which is what its `--help` prints."

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

from notebooks import write


def help_of(*command):
    "What a command prints: all of it, where the short help leaves options out."
    short = printed_by(*command, '--help')
    return printed_by(*command, '--help-all') if '--help-all' in short else short


def printed_by(*command):
    from synthreid.cli import main

    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            main(list(command))
        except SystemExit:
            pass
    return printed.getvalue().rstrip()


def words(text):
    "Markdown that shows the text as it is."
    return re.sub(r'([^\w\s]|_)', r'\\\1', text)


def item(line, links):
    "An option, or a word with what it means."
    if '\t' in line:
        name, text = line.split('\t')
        return f'````{{option}} {name}\n\n{words(text)}\n````\n'
    name, text = line.split(maxsplit=1)
    shown = f'[`{name}`]({name}.md)' if name in links else f'`{name}`'
    return f'{shown}\n: {words(text)}\n'


def marked_up(printed, links=()):
    "Markdown of a help text: examples and usage as code, options as Sphinx knows them, all else as words."
    printed = re.sub(r'\n  (--\S+ \S+)\n +', r'\n  \1\t', printed)  # a name longer than its column
    printed = re.sub(r'\n  (?=--|[A-Z])([^\t\n]{25}) (?=\S)', lambda m: f'\n  {m[1].rstrip()}\t', printed)
    printed = re.sub(r'\n {4,}(?=\S)', ' ', printed)
    made = []
    for part in printed.split('\n\n'):
        lines = part.splitlines()
        title = '' if lines[0].startswith('  ') else lines.pop(0)
        if part.startswith('usage:') or title == 'examples:':
            code = [line.strip() for line in lines or [title]]
            made.append('\n'.join(['```text', *code, '```', '']))
        elif all(line.startswith('  ') for line in lines):
            if title:
                made.append(f'**{words(title[0].upper() + title[1:-1])}**\n' if lines else words(title) + '\n')
            made += [item(line[2:], links) for line in lines]
        else:
            made.append(words(' '.join([title, *lines])) + '\n')
    return '\n'.join(made)


def page(title, printed, links=(), more=''):
    return f'# {title}\n\n```{{program}} {title}\n```\n\n{marked_up(printed, links)}\n{more}'


def prepare(app, config):
    from synthreid.cli import COMMANDS
    from synthreid.training.methods import METHODS

    folder = Path(app.srcdir) / 'commands'
    commands = [(name,) for name in COMMANDS]
    place = commands.index(('train',)) + 1
    commands[place:place] = [('train', method) for method in METHODS]
    wanted = {folder / 'index.md'}
    for command in commands:
        path = folder / f'{"-".join(command)}.md'
        wanted.add(path)
        write(path, page('synthreid ' + ' '.join(command), help_of(*command)))
    names = ['-'.join(command) for command in commands]
    tree = ['', '```{toctree}', ':hidden:', '', *names, '```', '']
    write(folder / 'index.md', page('Commands', help_of(), names, '\n'.join(tree)))
    for stale in set(folder.glob('*.md')) - wanted:
        stale.unlink()


def setup(app):
    app.connect('config-inited', prepare)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
