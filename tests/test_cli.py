"""The command line: what is said when, and to whom."""

import contextlib
import csv
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import synthreid.data.store
from synthreid import cli, commands
from synthreid.core import UserError
from synthreid.data.datasets import Concern, DatasetSpec, load_dataset
from synthreid.data.doctor import examine
from synthreid.render.folder import render_folder
from synthreid.render.layouts import make_layout
from synthreid.training.exchange import stage_run

SMALL = '--size 64x32 --steps 2 --batch-size 4 --backbone resnet_small --device cpu'.split()
JOINT = (
    '--size 32x16 --steps 2 --warmup-steps 1 --batch-size 4 --reid-batch 8 --dim 8 --n-blocks 1 --discriminator-dim 8'
    ' --head basic --head-layers [1] --head-widths [16] --device cpu'
).split()


def call(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(a) for a in argv])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for domain in ('game', 'camera'):
        render_folder(root / domain, domain, ids=8, per_id=6, size='64x32', workers=1, progress=False)
    return root


def test_nothing_is_decoded_before_the_rest_is_known_to_fit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(synthreid.data.store, 'decode_image', None)  # would be a fault
    start = 'train', 'direct', '--source', data / 'game', '--out', tmp_path / 'x'
    for more, part in (
        (['--weights', tmp_path / 'lost.pth', '--size', '64x32', '--backbone', 'resnet18'], 'no file at'),
        ([*SMALL, '--neck', 'giraffe'], 'giraffe'),
        ([*SMALL, '--images-per-id', 3], 'divisible'),
        ([*SMALL, '--precision', 'half'], 'bf16-mixed'),
        ([*SMALL, '--checkpoint-ever', '9'], 'got --checkpoint-ever (did you mean --checkpoint-every?)'),
        ([*SMALL, '--translate-with', tmp_path / 'nowhere'], 'nowhere'),
        ([*SMALL, '--steps', 0], 'expected steps'),
    ):
        code, said, err = call(*start, *more)
        assert code == 2 and part in err and 'should not happen' not in err, err
    code, said, err = call(*start, *SMALL)
    assert code != 0  # the trap works
    assert not (tmp_path / 'x').exists()


def test_settings_of_another_run_are_refused_before_decoding(data, tmp_path, monkeypatch):
    start = 'train', 'direct', '--source', data / 'game', '--out', tmp_path / 'run'
    assert call(*start, *SMALL)[0] == 0
    monkeypatch.setattr(synthreid.data.store, 'decode_image', None)
    code, said, err = call(*start, *SMALL, '--lr', 0.5)
    assert code == 2 and 'lr 0.0002 there, 0.5 here' in err


def test_a_finished_run_says_so_without_decoding(data, tmp_path, monkeypatch):
    shutil.copytree(data / 'game', tmp_path / 'game')
    start = (
        'train',
        'joint',
        '--source',
        tmp_path / 'game',
        '--target',
        data / 'camera',
        '--out',
        tmp_path / 'run',
        *JOINT,
    )
    assert call(*start)[0] == 0
    with monkeypatch.context() as m:
        m.setattr(synthreid.data.store, 'load_images', None)  # would be a fault
        (tmp_path / 'run' / 'data.json').unlink()
        code, said, err = call(*start)
        assert code == 0 and '2 of 2 steps were done before' in said, err
        assert (tmp_path / 'run' / 'data.json').exists()
    path = load_dataset('auto', tmp_path / 'game').train.paths[0]
    shutil.copy(load_dataset('auto', data / 'camera').train.paths[0], path)
    code, said, err = call(*start)
    assert code == 2 and 'other source images' in err
    Path(path).write_bytes(b'no picture')
    code, said, err = call(*start)
    assert code == 2 and 'could not read 1' in err


def test_broken_images_are_skipped_when_asked_to(data, tmp_path):
    shutil.copytree(data / 'game' / 'bounding_box_train', tmp_path / 'a')
    next((tmp_path / 'a').iterdir()).write_bytes(b'no picture')
    start = (
        'fid',
        tmp_path / 'a',
        data / 'camera' / 'bounding_box_train',
        '--stand-in',
        '--cache',
        tmp_path / 'kept',
        '--device',
        'cpu',
    )
    code, said, err = call(*start)
    assert code == 2 and 'could not read' in err
    code, said, err = call(*start, '--on-broken', 'ignore')
    assert code == 2 and "'refuse' or 'skip'" in err
    with pytest.warns(UserWarning, match='1 of 24 images left out'):
        code, said, err = call(*start, '--on-broken', 'skip')
    assert code == 0 and [line.split()[1] for line in said.splitlines() if line[:2] == 'n_'] == ['23', '24'], said + err


def test_warnings_are_one_line_at_the_shell_only(monkeypatch):
    before, seen = warnings.formatwarning, []

    def look():
        "Look."
        seen.append(warnings.formatwarning(Concern('x', 'two spellings', 'choose one'), Concern, 'file.py', 7))

    monkeypatch.setitem(cli.COMMANDS, 'fid', look)
    monkeypatch.setitem(cli.POSITIONAL, 'fid', [])
    assert call('fid')[0] == 0 and seen == ['warning: two spellings: choose one\n'] and warnings.formatwarning is before


@pytest.mark.parametrize(
    'argv,part',
    [
        (
            ['train', 'direct', '--steps', 'abc'],
            'expected a whole number for --steps (optimiser steps), got abc: see synthreid train direct --help',
        ),
        (
            ['train', 'direct', '--milestones', '3,2'],
            (
                'expected numbers in brackets such as [0.5,0.8] for --milestones (fractions of the run at which lr is'
                ' multiplied by 0.1), got 3,2'
            ),
        ),
        (['train', 'direct', '--milestones', '[3,2]'], 'expected milestones from 0 to 1, got 3'),
        (
            ['train', 'joint', '--identity-milestones', 'x'],
            'expected numbers in brackets such as [0.5,0.8] or null for --identity-milestones',
        ),
        (['train', 'direct', '--stpes', 5], 'got --stpes (did you mean --steps?)'),
        (['train', 'direct', '--per-ids', 5], 'did you mean --per-id?'),
        (['train', 'direct', '--qqq', 5], 'got --qqq:'),
        (['train', 'direct', '--margin', 'wide'], 'expected a number or null for --margin'),
        (['train', 'direct', '--clip', 7], 'expected true or false for --clip'),
        (['train', 'direct', '--clip'], 'expected a value after --clip, got none'),
    ],
)
def test_wrong_options_are_told_in_words(argv, part, data, tmp_path):
    code, said, err = call(
        *argv,
        '--source',
        data / 'game',
        '--out',
        tmp_path / 'x',
        '--size',
        '64x32',
        '--device',
        'cpu',
        *['--backbone', 'resnet_small'] * (argv[1] == 'direct'),
    )
    assert code == 2 and part in err and "<class" not in err and 'Parser key' not in err, err


def test_a_method_and_a_file_in_one_word(tmp_path):
    "--config=FILE and --method=NAME in the place of the method are what they are with a space."
    code, said, err = call('train', f'--config={tmp_path / "lost.yaml"}')
    assert code == 2 and 'expected a YAML file with options' in err and 'lost.yaml' in err
    assert call('train', '--method=direct', '--help') == call('train', '--method', 'direct', '--help')
    assert 'usage: synthreid train direct' in call('train', '--method=direct', '--help')[1]
    assert call('train', '--method') == call('train')


def test_what_is_missing_and_what_a_file_misspells(tmp_path):
    (tmp_path / 'mine.yaml').write_text('stpes: 5\n')
    for argv, part in (
        (['train', 'direct'], 'expected --source, --out, got nothing'),
        (['evaluate', '--target', 'x'], 'expected RUN, got nothing'),
        (
            ['train', 'direct', '--config', tmp_path / 'mine.yaml', '--source', 'a', '--out', 'b'],
            'got stpes (did you mean --steps?)',
        ),
    ):
        code, said, err = call(*argv)
        assert code == 2 and part in err, err


def test_a_run_without_a_broken_person_goes_on(data, tmp_path):
    shutil.copytree(data / 'game', tmp_path / 'game')
    split = load_dataset('auto', tmp_path / 'game').train
    for path in split.paths[split.pids == split.pids[0]]:
        Path(path).write_bytes(b'no picture')
    start = 'train', 'direct', '--source', tmp_path / 'game', '--out', tmp_path / 'run', *SMALL, '--on-broken', 'skip'
    for _ in range(2):
        with pytest.warns(UserWarning, match='left out'):
            code, said, err = call(*start)
        assert code == 0, err


@pytest.mark.parametrize(
    'error,code,said',
    [
        (MemoryError(), 2, 'expected enough memory'),
        (torch.OutOfMemoryError('CUDA out of memory. Tried ...'), 2, 'smaller batch'),
        (ZeroDivisionError('oops'), 70, 'please report'),
    ],
)
def test_what_nobody_thought_of(error, code, said, monkeypatch):
    def fail():
        "Fail."
        raise error

    monkeypatch.setitem(cli.COMMANDS, 'fid', fail)
    monkeypatch.setitem(cli.POSITIONAL, 'fid', [])
    got, _, err = call('fid')
    assert got == code and said in err and ('Traceback' in err) == (code == 70), err


def test_help_says_everything_once():
    for command in ('evaluate', 'doctor', 'fid', 'reproduce', 'translate'):
        code, said, _ = call(command, '--help')
        assert code == 0 and ' '.join(said.split()).count(cli.COMMANDS[command].__doc__.rstrip('.')) == 1, command
    from synthreid.metrics.ranking import PROTOCOLS

    said = call('evaluate', '--help')[1]
    assert all(f'  {name} ' in said for name in PROTOCOLS)
    said = call('train', 'direct', '--help-all')[1]
    assert (
        '%%' not in said
        and "the method's config" not in said
        and '--source-pattern' in said
        and '--translate-with' in said
    )


# What each of these may load: of what takes long, nothing; and where a table is examined, pandas.
_LONG = 'torch', 'torchvision', 'lightning_fabric', 'timm', 'matplotlib', 'seaborn', 'scipy', 'umap', 'ipywidgets'
_ASKED = [
    (['--version'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['--help'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['tarin', '--help'], 2, ('numpy', 'pandas', 'jsonargparse')),
    (['completion'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['train', '--help'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['train', 'joint', '--help'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['train', 'dgnet', '--help-all'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['train', 'jont', '--out', 'x'], 2, ('numpy', 'pandas', 'jsonargparse')),
    (['train', 'joint', '--stpes', '5', '--source', 'a', '--out', 'b'], 2, ('numpy', 'pandas')),
    (['train', 'flip', '--source', 'a', '--out', 'b', '--augment', 'mild'], 2, ('numpy', 'pandas')),
    (['evaluate', '--help-all'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['evaluate', 'run'], 2, ('numpy', 'pandas')),
    (['compare', '--help'], 0, ('numpy', 'pandas', 'jsonargparse')),
    (['runs', '.'], 0, ('numpy', 'pandas')),
    (['render', '--domain', 'moon', '--out', 'x'], 2, ('numpy', 'pandas')),
    (['doctor', 'CAMERA'], 0, ()),
    (['doctor', 'nowhere'], 2, ()),
]
_LOADED = """
import json, sys
from synthreid.cli import main
code = main(json.loads(sys.argv[1]))
print(json.dumps([code, sorted({m.partition('.')[0] for m in sys.modules})]))
"""


@pytest.mark.parametrize('argv,code,more', _ASKED, ids=[' '.join(a[0]) for a in _ASKED])
def test_questions_are_answered_without_loading_torch(argv, code, more, data):
    argv = [str(data / 'camera') if a == 'CAMERA' else a for a in argv]
    done = subprocess.run(
        [sys.executable, '-c', _LOADED, json.dumps(argv)], capture_output=True, text=True, check=True, cwd=data
    )
    got, loaded = json.loads(done.stdout.splitlines()[-1])
    assert got == code, done.stderr
    assert not set(loaded) & {*_LONG, *more}, set(loaded) & {*_LONG, *more}


def test_what_is_nearly_right_is_guessed():
    for argv, hint in (
        (['tarin'], 'did you mean train?'),
        (['evalaute', 'run'], 'did you mean evaluate?'),
        (['train', 'jont'], 'did you mean joint?'),
        (['train', 'dg-net'], 'did you mean dgnet?'),
        (['translate', 'a', '--rum', 'x', '--out', 'y'], 'did you mean --run?'),
    ):
        code, said, err = call(*argv)
        assert code == 2 and hint in err and err.count('\n') == 1, err


@pytest.mark.parametrize('name', ['direct', 'joint', 'flip', 'dgnet'])
def test_short_help_shows_what_decides_and_the_long_one_everything(name):
    from synthreid.training.methods import METHODS

    short, whole = (call('train', name, how)[1] for how in ('--help', '--help-all'))
    listed = lambda text: {line.split()[0] for line in text.splitlines() if line.startswith('  --')}
    fields = {f'--{f.name.replace("_", "-")}' for f in dataclasses.fields(METHODS[name].Config)}
    assert fields <= listed(whole) and listed(short) <= listed(whole)
    assert 10 <= len(listed(short)) <= 16 and {'--source', '--target', '--out', '--steps', '--size'} <= listed(short)
    assert f'{len(listed(whole)) - len(listed(short))} more options' in short and 'examples:' in short
    assert 'type:' not in whole and 'default:' not in whole and 'null' not in whole


@pytest.mark.parametrize('command', [c for c in cli.COMMANDS if c != 'train'])
def test_every_help_has_examples_that_parse(command):
    code, said, err = call(command, '--help')
    shown = [line.split()[1:] for line in said.partition('examples:')[2].splitlines() if line.startswith('  synthreid')]
    assert code == 0 and shown, said
    told = cli._written_command(command)
    for argv in shown:
        assert argv[0] == command
        cli._parser(command, told.options, cli.POSITIONAL.get(command, ())).parse_args(
            [cli._as_python(a) for a in argv[1:]]
        )


@pytest.mark.skipif(not shutil.which('bash'), reason='needs bash')
def test_help_of_a_command_and_a_preset_without_a_name():
    assert call('help', 'render') == call('render', '--help') and call('help') == call('--help')
    code, said, err = call('train', 'joint', '--source', 'x', '--preset')
    assert code == 2 and 'cpu-trial' in err and 'after --preset' in err, err


def test_bash_takes_the_completion():
    code, said, err = call('completion')
    done = subprocess.run(['bash', '-c', said + 'complete -p synthreid'], capture_output=True, text=True)
    assert done.stdout.strip() == "complete -o default -C 'synthreid --complete' synthreid", done.stderr


@pytest.mark.parametrize(
    'line,words',
    [
        ('synthreid tra', ['train', 'translate']),
        ('synthreid train j', ['joint']),
        ('synthreid train joint --deco', ['--decoder']),
        ('synthreid train joint --decoder ', ['field', 'transposed', 'resize']),
        ('synthreid render --domain c', ['camera']),
        ('synthreid train flip --preset o', ['one-gpu']),
        ('synthreid train jont --', []),
        ('synthreid nothing --', []),
        ('synthreid evaluate ru', []),
        ('synthreid compare --ru', []),  # given by place
    ],
)
def test_completion(line, words, monkeypatch):
    monkeypatch.setenv('COMP_LINE', line + 'what stands behind the cursor')
    monkeypatch.setenv('COMP_POINT', str(len(line)))
    code, said, err = call('--complete')
    assert code == 0 and said.split() == words, said + err


@pytest.mark.parametrize('method', ['direct', 'joint', 'flip', 'dgnet'])
def test_presets_are_whole_recipes(method):
    from synthreid.demo import demo_rows, system_rows
    from synthreid.training.methods import METHODS, make_config

    own, settings, _ = cli._train_options(method)
    found, kind = {}, METHODS[method]
    for name in cli._presets(method):
        argv = cli._with_files(cli._with_preset(['--preset', name, '--source', 'a', '--out', 'b'], method), method)
        given = vars(cli._parser(f'train {method}', own, settings=settings).parse_args(argv).clone())
        found[name] = make_config(method, {k: v for k, v in given.items() if k in settings})
    assert found.keys() >= {'cpu-trial', 'one-gpu'}
    rows = {**demo_rows(), **{row: told for row, told in system_rows(600).items()}}
    theirs = [dataclasses.replace(config, size='64x32') for name, config in rows.values() if name == method]
    assert found['cpu-trial'] in theirs, 'the demo shows what it does'
    if kind.reference or method == 'flip':
        assert found['reference'] == (kind.reference or kind.Config)()
    assert found['one-gpu'] == kind.Config()


def test_options_change_a_preset(data, tmp_path):
    where = '--source', data / 'game', '--target', data / 'camera', '--out', tmp_path / 'x'
    code, said, err = call(
        'train', 'joint', *where, '--steps', 1, '--preset', 'cpu-trial', '--device', 'cpu', *JOINT[4:]
    )
    assert code == 0 and 'of 1 steps' in said, err
    told = yaml.safe_load((tmp_path / 'x' / 'config.yaml').read_text())['config']
    assert (told['steps'], told['size'], told['n_patches'], told['dim']) == (1, '64x32', 48, 8)
    code, said, err = call('train', 'joint', *where, '--preset', 'cpu')
    assert code == 2 and "a preset of joint (cpu-trial, one-gpu, reference), got 'cpu'" in err


def test_results_as_a_table_and_as_json(data, tmp_path):
    where = '--target', data / 'camera', '--device', 'cpu'
    assert call('train', 'direct', '--source', data / 'game', '--out', tmp_path / 'run', *SMALL)[0] == 0
    code, said, err = call('evaluate', tmp_path / 'run', *where, '--rerank')
    table = {line[:18].strip(): line[18:].split() for line in said.splitlines()[:4]}
    assert code == 0 and list(table) == ['', 'direct', 'direct, re-ranked', 'by chance'], said + err
    told = json.loads(call('evaluate', tmp_path / 'run', *where, '--rerank', '--json')[1])
    for row in told['rows']:
        assert table[row.pop('name')] == [f'{100 * v:.1f}' for v in row.values()]
    assert told['recorded'] in said and len(told['protocols']) == 2 and all(p in said for p in told['protocols'])
    kept = json.loads(Path(told['recorded']).read_text())['metrics']
    assert [row['rank1'] for row in kept] == [told['rows'][0]['rank1'], told['rows'][1]['rank1']]
    # chance, by counting: of the gallery without junk and without the person on the query's camera
    dataset = load_dataset('auto', data / 'camera')
    g, shares = dataset.gallery[dataset.gallery.pids != -1], []
    for pid, cam in zip(dataset.query.pids, dataset.query.camids):
        own = g.pids == pid
        right = own & (g.camids != cam)
        shares.append(right.sum() / (len(g) - (own & ~right).sum()))
    assert told['rows'][2]['rank1'] == pytest.approx(np.mean(shares))


def test_the_doctor_and_distances_as_json(data, tmp_path):
    code, said, err = call('doctor', data / 'camera', '--json')
    told, found = json.loads(said), examine(data / 'camera')
    assert code == told['exit_code'] == found.exit_code and told['read_with']['layout'] == 'market1501'
    assert [f['name'] for f in told['findings']] == [f.name for f in found.findings]
    assert told['splits']['query'] == {'images': 24, 'people': 4, 'cameras': 6}
    (tmp_path / 'empty').mkdir()
    code, said, err = call('doctor', tmp_path / 'empty', '--json')
    assert code == 2 and json.loads(said)['findings'][0]['name'] == 'no_pictures'
    both = data / 'game' / 'query', data / 'camera' / 'query', '--stand-in', '--cache', 'none', '--device', 'cpu'
    plain, told = call('fid', *both)[1], json.loads(call('fid', *both, '--json')[1])
    assert f'{told["frechet"]:.6g}' in plain and f'{told["coverage"]:.6g}' in plain


def test_runs_are_listed_and_compared(data, tmp_path):
    for name, seed in ('one', 0), ('two', 1):
        where = '--source', data / 'game', '--out', tmp_path / name, '--seed', seed
        assert call('train', 'direct', *where, *SMALL)[0] == 0
    code, said, err = call(
        'compare', tmp_path / 'one', tmp_path / 'two', '--target', data / 'camera', '--device', 'cpu'
    )
    assert code == 0 and 'one' in said and 'by chance' in said and ' p = ' in said.replace('(p', ' p'), err
    told = json.loads(
        call('compare', tmp_path / 'one', tmp_path / 'two', '--target', data / 'camera', '--device', 'cpu', '--json')[1]
    )
    for row in told['rows']:  # the numbers of `evaluate`
        only = json.loads(
            call('evaluate', tmp_path / row['run'], '--target', data / 'camera', '--device', 'cpu', '--json')[1]
        )
        assert row['mAP'] == pytest.approx(only['rows'][0]['mAP']) and row['rank1'] == only['rows'][0]['rank1']
        assert told['chance']['camera'] == {k: v for k, v in only['rows'][1].items() if k != 'name'}
    assert told['pairs'][0]['mAP'] == pytest.approx(told['rows'][0]['mAP'] - told['rows'][1]['mAP'])
    code, said, err = call('runs', tmp_path, '--json')
    told = json.loads(said)
    assert [(Path(r['run']).name, r['step'], r['state']) for r in told] == [
        ('one', 2, 'finished'),
        ('two', 2, 'finished'),
    ]
    files = [p for p in (tmp_path / 'one').rglob('*') if p.is_file()]
    assert told[0]['bytes'] == sum(p.stat().st_size for p in files) and told[0]['results'][0]['target'] == 'camera'
    start = json.loads((tmp_path / 'one' / 'starts.jsonl').read_text())
    assert (
        start['versions']['torch'].split('+')[0] == torch.__version__.split('+')[0]
        and start['cores'] >= 1
        and start['processor']
    )
    code, said, err = call('compare', tmp_path / 'one', '--target', data / 'nowhere')
    assert code == 2 and 'nowhere' in err


def test_importing_the_package_loads_nothing():
    code = 'import sys, synthreid; print(sorted({m.partition(".")[0] for m in sys.modules} & {"torch", "numpy"}))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == '[]\n'
    with pytest.raises(AttributeError, match='no attribute .lode'):
        _ = synthreid.lode
    assert synthreid.load.__module__ == 'synthreid.model'


def test_subsets(data, tmp_path, monkeypatch):
    game = commands._sources(str(data / 'game'), 'auto', '', None)
    whole = dict(train_only=False, per_id=None, ids='', seed=0)
    taken = lambda **more: commands._source_split(game, **whole | more)[1]
    assert taken().n_ids == 8 and taken(train_only=True).n_ids == 4 and len(taken(per_id=2)) == 16
    few = taken(ids='3')
    assert (
        few.n_ids == 3
        and (few.paths != taken(ids='3', seed=1).paths).any()
        and (few.paths == taken(ids='3').paths).all()
    )
    named = load_dataset('auto', data / 'game', combineall=True).train.pids
    some = sorted(set(named[named > 0]))[:2]
    assert taken(ids=f'{some[0]},{some[1]}').n_ids == 2 and taken(ids=f'{some[0]},').n_ids == 1
    two = commands._sources(f'{data / "game"}, {data / "camera"}', 'auto', '', None)
    both = commands._source_split(two, True, None, '', 0)
    assert both[0] == ['game', 'camera'] and both[1].n_ids == 8
    with pytest.raises(UserError, match='999'):
        taken(ids='999,')


def test_options_and_patterns_reach_the_reader(data, tmp_path):
    mine = tmp_path / 'mine' / 'train'
    mine.mkdir(parents=True)
    for file in (data / 'camera' / 'bounding_box_train').glob('*.jpg'):
        shutil.copy(file, mine / f'p{file.name[:4]}~{file.name[6]}{file.name[7:]}')
    for argv in (
        ['--source-pattern', 'p{pid}~{cam}s{*}.jpg'],
        ['--source-layout', 'pattern', '--source-options', 'pattern=p{pid}~{cam}s{*}.jpg'],
    ):
        code, said, err = call(
            'train', 'direct', '--source', mine, '--out', tmp_path / f'run{len(argv)}', *SMALL, *argv
        )
        assert (code == 0) == (argv[0] == '--source-pattern') and (code == 0 or "got 'pattern'" in err), err
    for options, n in ('junk=false', 28), ('junk=true', 30):
        code, said, err = call(
            'evaluate',
            tmp_path / 'run2',
            '--target',
            data / 'camera',
            '--protocol',
            'all_images',
            '--options',
            options,
            '--device',
            'cpu',
        )
        assert code == 0 and f'among {n} gallery images' in said, said + err
    code, said, err = call('doctor', data / 'camera', '--options', 'junks=1')
    assert code == 2 and "got 'junks'" in said
    code, said, err = call(
        'reproduce',
        'synthreid',
        '--target',
        mine.parent,
        '--target-layout',
        'pattern',
        '--target-options',
        'nothing=1',
        '--source',
        data / 'game',
        '--dry-run',
    )
    assert code == 2 and 'nothing' in err


def test_who_was_trained_on_is_known_wherever_the_model_goes(data, tmp_path):
    assert (
        call(
            'train',
            'joint',
            '--source',
            data / 'camera',
            '--target',
            data / 'camera',
            '--out',
            tmp_path / 'run',
            *JOINT,
        )[0]
        == 0
    )
    for model in (tmp_path / 'run', tmp_path / 'run' / 'checkpoints' / 'step_00000002'):
        code, said, err = call('evaluate', model, '--target', data / 'camera', '--device', 'cpu')
        assert (
            code == 0
            and 'NO CLEAN TEST: 24 of 48 test images (4 of 4 people) were trained on,' in said
            and '--train-only' in err
        )
    (tmp_path / 'shared').mkdir()
    assert 'trained_on.npz' in stage_run(tmp_path / 'run', tmp_path / 'shared')
    assert 'NO CLEAN TEST' in call('evaluate', tmp_path / 'shared', '--target', data / 'camera', '--device', 'cpu')[1]
    # copies under other names, in another folder, described by a pattern
    renamed = tmp_path / 'renamed'
    for split, folder in (('query', 'query'), ('gallery', 'bounding_box_test')):
        (renamed / split).mkdir(parents=True)
        for file in (data / 'camera' / folder).glob('0*.jpg'):
            shutil.copy(file, renamed / split / f'{int(file.name[:4]) + 500}-{file.name[6]}-{file.name[8:]}')
    said = call(
        'evaluate', tmp_path / 'run', '--target', renamed, '--pattern', '{split}/{pid}-{cam}-{*}.jpg', '--device', 'cpu'
    )[1]
    assert 'NO CLEAN TEST' in said and 'people) were trained on' in said
    # a target's training images, seen without labels, are no test images
    assert (
        call(
            'train',
            'joint',
            '--source',
            data / 'game',
            '--target',
            data / 'camera',
            '--out',
            tmp_path / 'right',
            *JOINT,
        )[0]
        == 0
    )
    code, said, err = call('evaluate', tmp_path / 'right', '--target', data / 'camera', '--device', 'cpu')
    assert code == 0 and 'NO CLEAN' not in said + err
    # a target of test images is, without labels
    assert (
        call(
            'train',
            'joint',
            '--source',
            data / 'game',
            '--target',
            data / 'camera' / 'query',
            '--pattern',
            '{pid}_c{cam}s{*}.jpg',
            '--out',
            tmp_path / 'peeked',
            *JOINT,
        )[0]
        == 0
    )
    said = call('evaluate', tmp_path / 'peeked', '--target', data / 'camera', '--device', 'cpu')[1]
    assert '24 of 48 test images (4 of 4 people) were trained on without labels' in said
    (tmp_path / 'right' / 'trained_on.npz').unlink()
    assert 'is not known' in call('evaluate', tmp_path / 'right', '--target', data / 'camera', '--device', 'cpu')[2]
    np.savez(tmp_path / 'right' / 'trained_on.npz', other=1)
    assert (
        'trained_on.npz, got something else (KeyError): remove the file'
        in call('evaluate', tmp_path / 'right', '--target', data / 'camera', '--device', 'cpu')[2]
    )


FLIP = (
    '--size 32x16 --backbone resnet_small --weights null --steps 2 --batch-size 8 --epochs 2 --freeze-epochs 1'
    ' --warmup-epochs 1 --decay-epochs 1 --device cpu'
).split()
DGNET = (
    '--size 32x16 --backbone resnet_small --width 8 --embedding-dim 16 --structure-dim 4 --dilations [1,2,3] --n-blocks'
    ' 2 --hidden 16 --discriminator-dim 4 --n-scales 1 --steps 2 --batch-size 4 --pad 2 --primary donor --device cpu'
).split()


@pytest.mark.parametrize(
    'method,settings', [('direct', [*SMALL, '--margin', 'null']), ('joint', JOINT), ('flip', FLIP), ('dgnet', DGNET)]
)
def test_a_run_can_be_made_again_from_its_own_config(method, settings, data, tmp_path):
    where = ['--source', data / 'game', '--target', data / 'camera', '--device', 'cpu']
    run, other = tmp_path / 'run', tmp_path / 'other'
    code, said, err = call('train', method, *where, '--out', run, *settings, '--seed', 3)
    assert code == 0, err
    again = 'train', method, '--config', run / 'config.yaml', *where
    code, said, err = call(*again, '--out', run)
    assert code == 0 and '2 of 2 steps were done before' in said, err
    code, said, err = call('train', '--config', run / 'config.yaml', *where, '--out', run)
    assert code == 0 and '2 of 2 steps were done before' in said, err
    code, said, err = call(*again, '--out', other)
    assert code == 0 and '2 of 2 steps done' in said, err
    assert (other / 'config.yaml').read_text() == (run / 'config.yaml').read_text()
    weights = [p / 'checkpoints' / 'step_00000002' / 'nets.safetensors' for p in (run, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    code, said, err = call('train', method, f'--config={run}/config.yaml', *where, '--out', tmp_path / 'x', '--seed', 4)
    told, changed = (yaml.safe_load((f / 'config.yaml').read_text()) for f in (run, tmp_path / 'x'))
    assert code == 0 and told.pop('seed') == 3 and changed.pop('seed') == 4 and told == changed, err
    code, said, err = call(*again, '--out', run, '--lr', 0.5)
    assert code == 2 and '0.5 here' in err
    wrong = 'joint' if method != 'joint' else 'direct'
    code, said, err = call('train', wrong, '--config', run / 'config.yaml', *where, '--out', tmp_path / 'y')
    assert code == 2 and f"those of '{method}'" in err and not (tmp_path / 'y').exists()


def test_what_is_written_does_not_lie_among_what_is_read(data, tmp_path):
    target = shutil.copytree(data / 'camera' / 'bounding_box_train', tmp_path / 'target')
    start = 'train', 'joint', '--source', data / 'game', '--target', target, '--layout', 'unlabelled', *JOINT
    code, said, err = call(*start, '--device', 'cpu', '--out', target / 'run')
    assert code == 2 and 'outside of the pictures' in err and err.count('\n') == 1, err
    assert not (target / 'run').exists()


@pytest.mark.parametrize(
    'content',
    [
        b'\xff\xfes\x00',
        b'steps: "\x00"',
        b'steps: [',
        b'- steps',
        b'steps: 2026-13-45',
        b'a: !!python/name:os.system',
        b'[' * 1500,
        b'config: {a: 1}',
        b'config: 7',
        b'[]',
        b'? [a]\n: 1',
        None,
    ],
)
def test_a_damaged_config_file_is_named(content, data, tmp_path):
    file = tmp_path / 'mine.yaml'
    if content is not None:
        file.write_bytes(content)
    start = 'train', 'direct', *SMALL, '--source', data / 'game', '--out', tmp_path / 'x'
    code, said, err = call(*start, '--config', file)
    assert code == 2 and 'mine.yaml' in err and err.count('\n') == 1, err
    file.unlink(missing_ok=True)
    file.mkdir()
    code, said, err = call(*start, '--config', file)
    assert code == 2 and 'mine.yaml' in err and err.count('\n') == 1, err


@pytest.mark.parametrize('value', ['[', '*', '{cam}_{*}.jpg', '!!python/x', '2026-13-45', '"', '&a', '[' * 1500, '3'])
def test_an_option_of_the_reader_that_is_no_yes_or_no(value, data, tmp_path):
    start = 'evaluate', tmp_path, '--target', data / 'camera'
    code, said, err = call('train', 'direct', *SMALL, '--source', data / 'game', '--out', tmp_path / 'x',
                           '--source-options', f'junk={value}')  # fmt: skip
    assert code == 2 and 'bool for the option junk' in err and err.count('\n') == 1, err
    code, said, err = call('doctor', data / 'camera', '--options', f'junk={value}')
    assert code == 2 and 'bool for the option junk' in said + err, said + err
    code, said, err = call(*start, '--options', f'a={value}')
    assert code == 2 and err.count('\n') == 1, err


def _readers():  # (layout, option, value): every documented option of every reader that can be tried from a folder
    from synthreid.data.datasets import READERS
    from synthreid.render.layouts import LAYOUT_NAMES

    values = dict(version=1, first_cam=0, query='query', gallery='gallery', train='train', pattern='{pid}-cam{cam}-{*}')
    for name in {*LAYOUT_NAMES, 'unlabelled'} - {'cuhk03', 'msmt17_v2'}:
        parameters = list(inspect.signature(READERS[name]).parameters.values())[1:]
        for p in parameters:
            if p.name not in ('layout', 'name') and p.kind is not p.VAR_KEYWORD:
                yield name, p.name, values.get(p.name, p.default)


@pytest.mark.parametrize('layout,option,value', sorted(_readers(), key=str))
def test_every_option_of_a_reader_passes_through_every_way_in(layout, option, value, tmp_path):
    root, given = tmp_path / 'data', {option: value}
    make_layout(layout, root, ids=8, per_id=4)
    if layout == 'pattern':
        given = dict(pattern='{pid}-cam{cam}-{*}', train='train', query='query', gallery='gallery') | given
    read = load_dataset(layout, root, **given)
    paths = [sorted(map(str, s.paths)) for s in read.splits.values()]
    spec = DatasetSpec(root, layout, given)
    found = examine(root, layout, progress=False, **given)
    for other in (spec.load(), load_dataset(spec), found.dataset, examine(spec, progress=False).dataset):
        assert [sorted(map(str, s.paths)) for s in other.splits.values()] == paths
    if layout == 'pattern':
        given = {k: v for k, v in given.items() if k != 'pattern'}
        layout, named = 'auto', ['--pattern', '{pid}-cam{cam}-{*}']
    else:
        named = []
    told = ','.join(f'{k}={v}' for k, v in given.items())
    code, said, err = call(
        'doctor', root, '--layout', layout, '--options', told, *named, '--manifest', tmp_path / 'm.csv'
    )
    assert code < 2, said + err
    again = load_dataset('manifest', tmp_path / 'm.csv')
    assert [sorted(os.path.realpath(p) for p in s.paths) for s in again.splits.values()] == [
        sorted(os.path.realpath(p) for p in p) for p in paths
    ]


def test_the_folder_names_are_the_people_and_the_files_tell_the_cameras(data, tmp_path):
    for file in (data / 'camera' / 'bounding_box_train').glob('*.jpg'):
        (tmp_path / file.name[:4]).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.name[:4] / f'{file.name[6]}_{file.name[9:]}')
    truth = load_dataset('market1501', data / 'camera').train
    cameras = np.unique(truth.camids, return_inverse=True)[1]
    want = sorted(zip(truth.pids, cameras))
    for split in (
        load_dataset('folders', tmp_path, file='{cam}_{*}.jpg').train,
        commands._dataset(tmp_path, 'folders', 'file={cam}_{*}.jpg').load().train,
    ):
        assert sorted(zip(split.pids, split.camids)) == want


def test_interrupted_without_a_message(monkeypatch):
    def stop():
        "Stop."
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, 'fid', stop)
    monkeypatch.setitem(cli.POSITIONAL, 'fid', [])
    assert call('fid') == (130, '', 'synthreid: interrupted: run the same command to go on\n')


@pytest.mark.parametrize('argv', [['train', 'joint', '--help'], ['doctor', 'DATA']])
def test_a_reader_who_leaves_early_is_no_error(argv, data):
    argv = [str(data / 'camera') if a == 'DATA' else a for a in argv]
    code = 'import sys; from synthreid.cli import main; sys.exit(main())'
    left, right = os.pipe()
    os.close(left)  # nobody reads
    done = subprocess.run([sys.executable, '-c', code, *argv], stdout=right, stderr=subprocess.PIPE, text=True)
    os.close(right)
    assert done.returncode == 141, done.stderr
    assert not {'synthreid:', 'Broken', 'Traceback', 'ignored'} & set(done.stderr.split()), done.stderr


def test_a_translation_goes_on(data, tmp_path, monkeypatch):
    run, source = tmp_path / 'run', data / 'game' / 'query'
    start = 'train', 'joint', '--source', data / 'game', '--target', data / 'camera', '--out', run, *JOINT
    assert call(*start)[0] == 0
    translate = 'translate', source, '--run', run, '--device', 'cpu', '--batch-size', 8
    assert call(*translate, '--out', tmp_path / 'whole')[0] == 0
    whole = {p.name: p.read_bytes() for p in (tmp_path / 'whole').glob('*.png')}
    for stop in KeyboardInterrupt(), OSError(28, 'No space left on device'):
        out, write, left = tmp_path / type(stop).__name__, commands._save_png, [11]

        def save(pixels, path, write=write, left=left, stop=stop):
            if not left[0]:
                raise stop
            left[0] -= 1
            write(pixels, path)

        with monkeypatch.context() as m:
            m.setattr(commands, '_save_png', save)
            assert call(*translate, '--out', out)[0] == (130 if isinstance(stop, KeyboardInterrupt) else 2)
        made = sorted(out.glob('*.png'))
        assert len(made) == 11
        made[0].write_bytes(whole[made[0].name][:200])  # half-written
        (out / f'.{made[1].name}.123.tmp').write_bytes(b'half')
        kept = made[1].stat().st_mtime_ns
        assert call(*translate, '--out', out, '--run', tmp_path / 'whole')[0] == 2
        told = lambda *argv: re.search('begun with (.*?):', call(*argv)[2])[1]
        assert told(*translate, '--out', out, '--camera', 1) == 'camera -1 (here 1)'
        assert told('translate', data / 'camera' / 'query', *translate[2:], '--out', out) == 'other pictures'
        code, said, err = call(*translate, '--out', out)
        assert code == 0 and f'{len(whole)} images' in said, err
        assert {p.name: p.read_bytes() for p in out.glob('*.png')} == whole and not list(out.glob('.*.tmp'))
        assert made[1].stat().st_mtime_ns == kept, 'whole pictures are not written again'
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').touch()
    code, said, err = call(*translate, '--out', tmp_path / 'mine')
    assert code == 2 and 'has files in it' in err


def test_too_many_people_are_refused_at_once(tmp_path):
    code, said, err = call('render', '--domain', 'game', '--ids', 1_000_001, '--out', tmp_path / 'x')
    assert code == 2 and '1,000,000 people' in err and not (tmp_path / 'x').exists()


def test_a_picture_of_cameras_is_whole_or_not_there(data, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def full(self, file, **how):
        Path(file).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    (tmp_path / 'old.png').write_bytes(b'earlier')
    monkeypatch.setattr(Figure, 'savefig', full)
    for name in 'new.png', 'old.png':
        code, said, err = call('doctor', data / 'camera', '--picture', tmp_path / name)
        assert code == 2 and 'No space left' in err
    assert [p.name for p in tmp_path.iterdir()] == ['old.png'] and (tmp_path / 'old.png').read_bytes() == b'earlier'
    monkeypatch.undo()
    for name in 'new.png', 'new.SVG':
        assert call('doctor', data / 'camera', '--picture', tmp_path / name)[0] < 2
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(
    'size,more,part',
    [
        ('12x12', [], 'at least 16x8'),
        ('12x16', [], 'at least 16x8'),
        ('16x4', [], 'at least 16x8'),
        ('4x8', ['--translation', 'none'], 'at least 8x8'),
        ('8x4', ['--translation', 'none'], 'at least 8x8'),
    ],
)
def test_images_too_small_for_the_nets_are_refused_before_decoding(size, more, part, data, tmp_path, monkeypatch):
    where = ['--source', data / 'game', '--target', data / 'camera']
    start = 'train', 'joint', *where, *JOINT, *more
    code, said, err = call(*start, '--size', part.split()[-1], '--steps', 1, '--out', tmp_path / 'smallest')
    assert code == 0, err
    monkeypatch.setattr(synthreid.data.store, 'decode_image', None)  # would be a fault
    code, said, err = call(*start, '--size', size, '--out', tmp_path / 'x')
    assert code == 2 and part in err and not (tmp_path / 'x').exists(), err


def test_people_of_train_and_test_under_one_number_are_told(data, tmp_path):
    root = tmp_path / 'game'
    shutil.copytree(data / 'game', root)
    for folder in 'query', 'bounding_box_test':  # 5 to 8 become 1 to 4, as where the test numbers from 1 again
        for file in sorted((root / folder).glob('0*.jpg')):
            if (pid := int(file.name[:4])) > 4:
                file.rename(file.with_name(f'{pid - 4:04d}{file.name[4:]}'))
    start = 'train', 'direct', *SMALL, '--source', root, '--out'
    with pytest.warns(Concern, match='4 identities of game have the same number in train and gallery.*--train-only'):
        assert call(*start, tmp_path / 'x')[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter('error', Concern)
        assert call(*start, tmp_path / 'y', '--train-only')[0] == 0
        assert call('train', 'direct', *SMALL, '--source', data / 'game', '--out', tmp_path / 'z')[0] == 0
    with pytest.warns(Concern, match='4 identities'):
        load_dataset('auto', root).labelled()


def test_people_that_are_never_shown_are_counted(data, tmp_path):
    start = 'train', 'flip', *FLIP, '--source', data / 'game', '--train-only', '--batch-size', 4
    code, said, err = call(*start, '--out', tmp_path / 'x', '--images-per-id', 2)
    assert code == 0, err
    few = tmp_path / 'few'
    shutil.copytree(data / 'game', few)
    for file in sorted((few / 'bounding_box_train').glob('0003*.jpg'))[1:]:
        file.unlink()
    argv = [few if a == data / 'game' else a for a in start]
    with pytest.warns(UserWarning, match='1 of 4 people have fewer than 2 pictures and are never shown'):
        assert call(*argv, '--out', tmp_path / 'y', '--images-per-id', 2)[0] == 0


@pytest.mark.parametrize(
    'method,settings,wrong',
    [
        ('direct', SMALL, '--weight-triplet 1 --images-per-id 1'),
        ('direct', SMALL, '--weight-triplet 1 --images-per-id 4'),
        ('direct', SMALL, '--weight-circle 1 --weight-id 0 --images-per-id 4'),
        ('flip', FLIP, '--images-per-id 1 --sampling identities'),
        ('flip', FLIP, '--images-per-id 8'),
        ('joint', JOINT, '--weight-triplet 1 --reid-images-per-id 1'),
        ('joint', JOINT, '--weight-triplet 1 --reid-images-per-id 8'),
        ('joint', JOINT, '--weight-triplet 1 --reid-batch 0 --images-per-id 4'),
    ],
)
def test_a_loss_of_pairs_needs_pairs(method, settings, wrong, data, tmp_path, monkeypatch):
    monkeypatch.setattr(synthreid.data.store, 'decode_image', None)  # would be a fault
    where = '--source', data / 'game', '--target', data / 'camera', '--out', tmp_path / 'x'
    code, said, err = call('train', method, *settings, *where, *wrong.split())
    assert code == 2 and 'at least 2 people with 2 images each' in err, err


def test_a_manifest_keeps_the_names(data, tmp_path):
    people = {'0001': 'anna', '0002': 'Bob B.', '0003': '12b', '0004': '7'}
    for file in (data / 'camera' / 'bounding_box_train').glob('*.jpg'):
        home = tmp_path / 'mine' / people[file.name[:4]]
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, home / f'{"door" if file.name[6] < "4" else "yard"}_{file.name[6:]}')
    start = 'doctor', tmp_path / 'mine', '--layout', 'folders', '--options', 'file={cam}_{*}.jpg', '--manifest'
    for name, more in ('whole.csv', []), ('held.csv', ['--hold-out', 0.5]):
        code, said, err = call(*start, tmp_path / name, *more)
        assert code < 2, said + err
        with open(tmp_path / name, newline='') as f:
            rows = list(csv.DictReader(f))
        assert {r['pid'] for r in rows} == set(people.values()) and {r['camid'] for r in rows} == {'door', 'yard'}
        assert all(Path(r['path']).parent.name == r['pid'] for r in rows)
        assert all(Path(r['path']).name.startswith(r['camid']) for r in rows)
        assert {r['split'] for r in rows} == ({'train', 'query', 'gallery'} if more else {'train'})
        again = load_dataset('manifest', tmp_path / name)
        assert sum(map(len, again.splits.values())) == len(rows) == 24
    (tmp_path / 'rest').mkdir()
    shutil.copytree(data / 'camera', tmp_path / 'rest' / 'camera')
    assert call('doctor', tmp_path / 'rest' / 'camera', '--manifest', tmp_path / 'numbers.csv')[0] < 2
    with open(tmp_path / 'numbers.csv', newline='') as f:
        told = {(r['pid'], Path(r['path']).name) for r in csv.DictReader(f)}
    assert all(int(pid) == int(re.match(r'-1|\d+', name)[0]) for pid, name in told)


@pytest.mark.parametrize('method,backbone', [('flip', 'resnet_small'), ('direct', 'osnet_x1_0')])
def test_pictures_too_small_for_any_net(method, backbone, data, tmp_path, monkeypatch):
    monkeypatch.setattr(synthreid.data.store, 'decode_image', None)  # would be a fault
    small = '--size 4x4 --steps 1 --batch-size 4 --images-per-id 2 --device cpu --weights null'.split()
    start = 'train', method, '--source', data / 'game', '--out', tmp_path / 'x', '--backbone', backbone
    code, said, err = call(*start, *small)
    assert code == 2 and 'large' in err and not (tmp_path / 'x').exists(), err


def test_nothing_given_is_not_this_folder(data, tmp_path, monkeypatch):
    "As a shell variable that is not set leaves it."
    monkeypatch.chdir(data / 'game')
    start = 'train', 'direct', *SMALL
    for argv, name in (
        ((*start, '--source', '', '--out', tmp_path / 'x'), '--source'),
        ((*start, '--source', data / 'game', '--target', '', '--out', tmp_path / 'x'), '--target'),
        ((*start, '--source', data / 'game', '--cache', '', '--out', tmp_path / 'x'), '--cache'),
        ((*start, '--source', data / 'game', '--out', ''), '--out'),
        (('doctor', ''), '--path'),
        (('fid', data / 'game' / 'query', '', '--stand-in'), '--b'),
        (('embed', '', '--run', tmp_path, '--out', tmp_path / 'f.npz'), '--folder'),
        (('translate', data / 'game' / 'query', '--run', '', '--out', tmp_path / 'x'), '--run'),
    ):
        code, said, err = call(*argv)
        assert code == 2 and f'a value for {name}, got an empty one' in err, err
    code, said, err = call(*start, '--source', f'{data / "game"},', '--out', tmp_path / 'x')
    assert code == 2 and 'an empty name' in err, err
    assert not (tmp_path / 'x').exists() and not (data / 'game' / 'config.yaml').exists()


def test_numbers_of_numpy_are_numbers():
    from synthreid.training.dgnet import DGNetConfig, join_heads
    from synthreid.training.direct import DirectConfig
    from synthreid.training.methods import make_method

    one, two = torch.eye(3), torch.ones(3, 3)
    assert torch.equal(join_heads(one, two, np.float32(0.25)), join_heads(one, two, 0.25))
    assert commands._with_alpha(DGNetConfig(), np.float32(0.25)).alpha == 0.25
    wrong = DirectConfig(size='32x16', backbone='resnet_small', weight_triplet=np.float32(-1))
    with pytest.raises(UserError, match='weight_triplet'):
        make_method('direct', wrong, 4)


def test_every_option_of_every_command_says_what_it_is():
    silent = [(c, k) for c in cli.COMMANDS for k, o in cli._written_command(c).options.items() if not o.comment]
    assert silent == []
    methods = cli.written_methods().items()
    assert [(m, k) for m, w in methods for k, o in w.settings.options.items() if not o.comment] == []
