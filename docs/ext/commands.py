"`docs/commands/`: a page per command of `synthreid`, which is what its `--help` prints."

import io
import os
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
    os.environ['COLUMNS'] = '88'
    with redirect_stdout(printed):
        try:
            main(list(command))
        except SystemExit:
            pass
    return printed.getvalue().rstrip()


def page(title, printed, more=''):
    return f'# {title}\n\n```text\n{printed}\n```\n{more}'


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
    tree = ['', '```{toctree}', ':hidden:', '', *('-'.join(command) for command in commands), '```', '']
    write(folder / 'index.md', page('Commands', help_of(), '\n'.join(tree)))
    for stale in set(folder.glob('*.md')) - wanted:
        stale.unlink()


def setup(app):
    app.connect('config-inited', prepare)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
